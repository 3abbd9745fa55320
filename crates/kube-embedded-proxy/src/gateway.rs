//! The Gateway API.
