"""What every process writes its log with, the results server too; it imports nothing of ours."""
