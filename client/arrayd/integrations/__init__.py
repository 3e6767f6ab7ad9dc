"""Support for other libraries: picklers that send arrays by reference."""
