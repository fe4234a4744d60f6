"""What quotas of ranks are worth, and what they cost any rule."""
