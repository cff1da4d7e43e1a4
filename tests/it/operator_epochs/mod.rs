//! An epoch is reported exactly once, whatever happens: the real epoch loop against a real API server, a real chain and a
//! scripted gateway. The chain's clock stands still until a test moves it, so nothing here waits for time; only the tests with
//! real operator processes poll for what those do.

mod absence;
mod crashes;
mod forms;
mod pace;
mod payments;
mod processes;
mod rivals;
mod signers;
mod slashing;
mod stage;
mod votes;
