"""Forward and backward passes: windows of accumulation, second passes that leave no trace."""
