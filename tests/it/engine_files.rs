//! What hostile or damaged model files do.
