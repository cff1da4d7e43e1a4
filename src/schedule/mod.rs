//! Which worker gets which request: filter, score, lease plan. Pure.
