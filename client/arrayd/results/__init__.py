"""What calls of arrayd return or report, as plain data: status, info, progress."""
