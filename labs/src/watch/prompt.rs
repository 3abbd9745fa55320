//! Questions that a participant responds to with a line.

use super::keys::ESCAPE;
use crate::check::BY_HAND;
use crate::lab::Lab;
use crate::phases;

/// The longest line.
const LONGEST: usize = 63;

/// A question.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Question {
    /// How many of that many requests the canary gets.
    Predict(u64),
    /// The phase to start over with; this one if the line is empty.
    Phase(&'static str),
    /// Whether to delete what is in a namespace that was not created for exercises.
    Delete(&'static str, String),
}

/// A question and the line so far.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Prompt {
    pub(super) question: Question,
    line: String,
}

/// What a key did.
#[derive(Debug, PartialEq)]
pub(super) enum Input {
    /// The line is not complete.
    More,
    /// The participant goes back.
    Cancelled,
    /// The line is complete.
    Line(String),
}

impl Prompt {
    pub(super) fn new(question: Question) -> Self {
        Self { question, line: String::new() }
    }

    pub(super) fn key(&mut self, key: u8) -> Input {
        match key {
            b'\n' | b'\r' => Input::Line(std::mem::take(&mut self.line)),
            ESCAPE => Input::Cancelled,
            0x08 | 0x7f => {
                self.line.pop();
                Input::More
            }
            b' '..=b'~' if self.line.len() < LONGEST => {
                self.line.push(char::from(key));
                Input::More
            }
            _ => Input::More,
        }
    }

    /// The explanation of the question, and the line that is typed at.
    pub(super) fn text(&self) -> (String, String) {
        let (explanation, ask) = match &self.question {
            Question::Predict(requests) => (
                format!("How many of {requests} requests will the canary get? Esc to go back."),
                "your guess".to_owned(),
            ),
            Question::Phase(current) => (
                format!(
                    "Start over at which phase: 3, 4 or 5? Enter alone is {current}, Esc goes back."
                ),
                "phase".to_owned(),
            ),
            Question::Delete(phase, namespace) => (
                format!(
                    "Namespace `{namespace}` was not created for exercises. To start {phase}, the Deployments, \
                     Services, Ingresses, ConfigMaps, TLS Secrets and pods in it are deleted. Type its name to do \
                     that; Esc goes back."
                ),
                "delete what is in namespace".to_owned(),
            ),
        };
        (explanation, format!("{ask}: {}", self.line))
    }
}

/// The lab that a line names: `4`, `phase4`, or the current one if it is empty.
pub(super) fn lab(line: &str, current: &'static Lab) -> Option<&'static Lab> {
    match line.trim() {
        "" => Some(current),
        text => {
            let number = text.strip_prefix("phase").unwrap_or(text);
            let name = format!("phase{number}");
            BY_HAND.contains(&&*name).then(|| phases::find(&name)).flatten()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_typed_corrected_and_entered_or_cancelled() {
        let mut prompt = Prompt::new(Question::Predict(1000));
        for key in *b"2x\x7f5" {
            assert_eq!(prompt.key(key), Input::More);
        }
        assert_eq!(prompt.text().1, "your guess: 25");
        assert_eq!(prompt.key(b'\n'), Input::Line("25".into()));
        assert_eq!(prompt.key(ESCAPE), Input::Cancelled);
    }

    #[test]
    fn phase_is_named_by_number_or_name() {
        let current = phases::find("phase4").unwrap();
        let name = |line: &str| lab(line, current).map(|lab| lab.name);
        assert_eq!(name(""), Some("phase4"));
        assert_eq!((name("3"), name(" phase5 ")), (Some("phase3"), Some("phase5")));
        assert_eq!((name("0"), name("x"), name("9")), (None, None, None));
    }
}
