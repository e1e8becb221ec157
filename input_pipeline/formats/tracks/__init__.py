"""2D tracks as trackers write them: one small file a family of formats."""
