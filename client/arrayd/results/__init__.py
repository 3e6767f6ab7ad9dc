"""What calls return or report: status, info, progress, arrays that were lost on the way."""
