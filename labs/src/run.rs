//! Plays labs in order and makes sure that each leaves nothing behind.
