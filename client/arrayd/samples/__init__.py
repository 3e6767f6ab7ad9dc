"""Which rows, of which files, in which order: functions of numbers, for client and daemon alike.

Both compute them by themselves and come to the same. `arrayd.samples.order` defines the order of an
epoch, `arrayd.samples.selection` has what a selection of rows is, `arrayd.samples.manifest` where
a row lies, and `arrayd.samples.receipt` the proof of what was delivered.
"""
