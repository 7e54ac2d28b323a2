//! Elements that are indexed with what is known to be there.
//!
//! A slice's own index says in each place where it is and what it found: 30 bytes, a hundred times. This one's
//! panic does not; its backtrace does.

use core::ops::{Deref, DerefMut, Index, IndexMut};

/// What derefs to a slice, a vector or a boxed one.
#[derive(Clone, Debug)]
pub struct Table<S>(pub S);

impl<S> Deref for Table<S> {
    type Target = S;

    #[inline(always)]
    fn deref(&self) -> &S {
        &self.0
    }
}

impl<S> DerefMut for Table<S> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut S {
        &mut self.0
    }
}

impl<T, S: Deref<Target = [T]>> Index<usize> for Table<S> {
    type Output = T;

    #[inline(always)]
    fn index(&self, index: usize) -> &T {
        self.0.get(index).unwrap_or_else(|| beyond())
    }
}

impl<T, S: DerefMut<Target = [T]>> IndexMut<usize> for Table<S> {
    #[inline(always)]
    fn index_mut(&mut self, index: usize) -> &mut T {
        self.0.get_mut(index).unwrap_or_else(|| beyond())
    }
}

#[cold]
#[inline(never)]
fn beyond() -> ! {
    panic!("an index beyond the table")
}
