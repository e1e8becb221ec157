"""Pictures of results: landmarks on images, 3D poses, and the report of a run."""
