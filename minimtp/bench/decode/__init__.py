"""`minimtp bench decode` and `bench rounds`: the gains from drafting, and the cases that lose."""
