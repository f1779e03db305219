"""`minimtp bench decode` and `bench rounds`: what drafting gains, and where it loses."""
