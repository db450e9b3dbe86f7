"""Several networks brought together into one."""
