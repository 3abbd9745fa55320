//! Canary deployment labs.
