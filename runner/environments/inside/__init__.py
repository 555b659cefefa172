"""What runs in a sandbox, before and beside the code of users. Standard library only."""
