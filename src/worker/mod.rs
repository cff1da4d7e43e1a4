//! The worker process: serves inference over the grid, answers challenges, keeps model blobs, tells its health.
