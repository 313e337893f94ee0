"""What every driver of the storage manager stands on: errors, locks, processes."""
