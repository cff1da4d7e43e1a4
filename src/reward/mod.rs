//! From verified work to wei: units, allocation by largest remainder, and the reward tree that the contract checks. Pure.
