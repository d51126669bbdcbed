"""The engine: batches sessions that stand at different positions, each with its own fast weights."""
