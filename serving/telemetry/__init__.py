"""What a server tells of itself: metrics and logged requests."""
