//! Paths from a variable to a value, by which the size of the value is looked up.

use std::{cell::RefCell, rc::Rc};

/// One step of a path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step<'e> {
    /// A variable, which is the first step, or a field.
    Field(&'e str),
    /// The elements of a list or the values of a map.
    Inside,
    /// The keys of a map.
    Key,
    /// The indices of a list.
    Index,
}

/// A path. Empty for what is no part of a variable.
///
/// cel-go extends a path with Go's `append`, so that two paths that extend the same one may share
/// their last step, and the one made later overwrites it for both. Of `x.a` and `x.b`, then, `x.a`
/// may get the size of `x.b`, if it is looked up late: the range of a comprehension is. That moves
/// estimates by factors of thousands (seen in cel-go 0.26.0), so the sharing is kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Path<'e> {
    steps: Rc<RefCell<Vec<Step<'e>>>>,
    len: usize,
    capacity: usize,
}

impl<'e> Path<'e> {
    pub(super) fn variable(name: &'e str) -> Self {
        Self { steps: Rc::new(RefCell::new(vec![Step::Field(name)])), len: 1, capacity: 1 }
    }

    /// Returns the path with one more step.
    pub(super) fn child(&self, step: Step<'e>) -> Self {
        if self.len == self.capacity {
            let mut steps = self.steps.borrow().get(..self.len).unwrap_or_default().to_vec();
            steps.push(step);
            let capacity = (self.capacity * 2).max(1);
            return Self { steps: Rc::new(RefCell::new(steps)), len: self.len + 1, capacity };
        }
        let mut steps = self.steps.borrow_mut();
        match steps.get_mut(self.len) {
            Some(shared) => *shared = step,
            None => steps.push(step),
        }
        drop(steps);
        Self { steps: self.steps.clone(), len: self.len + 1, capacity: self.capacity }
    }

    /// Returns the steps after the variable; `None` if the path is empty.
    pub(super) fn below(&self) -> Option<Vec<Step<'e>>> {
        self.steps.borrow().get(1..self.len).map(<[Step]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps<'e>(path: &Path<'e>) -> Vec<Step<'e>> {
        path.below().unwrap()
    }

    #[test]
    fn paths_that_extend_the_same_one_share_spare_capacity() {
        let path = Path::variable("self").child(Step::Field("a")).child(Step::Inside);
        let first = path.child(Step::Field("foo"));
        assert_eq!(steps(&first), [Step::Field("a"), Step::Inside, Step::Field("foo")]);
        let second = path.child(Step::Field("bar"));
        assert_eq!(steps(&second), [Step::Field("a"), Step::Inside, Step::Field("bar")]);
        assert_eq!(steps(&first), steps(&second));
    }

    #[test]
    fn paths_that_extend_a_full_one_share_nothing() {
        let path = Path::variable("self").child(Step::Field("a"));
        let first = path.child(Step::Inside);
        let second = path.child(Step::Key);
        assert_eq!(steps(&first), [Step::Field("a"), Step::Inside]);
        assert_eq!(steps(&second), [Step::Field("a"), Step::Key]);
        assert_eq!(Path::default().below(), None);
    }
}
