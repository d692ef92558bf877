//! Which values share memory: a slot is given to another value when the last step that reads its value has run.

use super::floats::Floats;
use super::steps::{PlaceKind, Step};

/// A value's memory while a function is planned, before it has a slot.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) kind: PlaceKind,
    pub(super) len: usize,
    /// What is in it from the start, if anything.
    pub(super) content: Option<Content>,
    /// Whether it keeps its slot to itself: inputs, constants and outputs.
    pub(super) pinned: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Floats(Floats),
    /// One number everywhere; it takes memory when the plan, seen to be of a size that fits, gets its own.
    Uniform(f32),
    Ints(Vec<i32>),
}

impl Content {
    /// The numbers, if it is numbers; so many of a uniform one.
    pub(super) fn floats(&self, len: usize) -> Option<Floats> {
        match self {
            Content::Floats(x) => Some(x.clone()),
            Content::Uniform(x) => {
                let mut floats = Floats::zeros(len);
                floats.fill(*x);
                Some(floats)
            }
            Content::Ints(_) => None,
        }
    }
}

/// The slots of a plan as they are before the first run.
#[derive(Debug, Default)]
pub(super) struct Slots {
    floats: Vec<Slot>,
    ints: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    len: usize,
    content: Option<Content>,
}

impl Slots {
    /// Gives each buffer a slot; `steps` then name slots where they named buffers. Also gives the slot of each
    /// buffer. Constants that no step reads and that are not `wanted` otherwise are dropped.
    pub(super) fn assign(
        mut buffers: Vec<Buffer>,
        steps: &mut [Step],
        wanted: impl Iterator<Item = usize>,
    ) -> (Slots, Vec<usize>) {
        let mut last_use = vec![0; buffers.len()];
        let mut is_used = vec![false; buffers.len()];
        for (i, step) in steps.iter().enumerate() {
            step.reads.iter().chain(&step.writes).for_each(|p| (last_use[p.slot], is_used[p.slot]) = (i, true));
        }
        wanted.for_each(|i| is_used[i] = true);
        let mut slots = Slots::default();
        let mut at = vec![None; buffers.len()];
        for (i, buffer) in buffers.iter_mut().enumerate().filter(|(i, b)| b.pinned && is_used[*i]) {
            let list = slots.of(buffer.kind);
            list.push(Slot { len: buffer.len, content: buffer.content.take() });
            at[i] = Some(list.len() - 1);
        }
        let mut free: [Vec<usize>; 2] = Default::default();
        for (i, step) in steps.iter_mut().enumerate() {
            for place in &step.writes {
                let buffer = &buffers[place.slot];
                if at[place.slot].is_none() {
                    let list = slots.of(buffer.kind);
                    at[place.slot] = Some(choose(list, &mut free[buffer.kind as usize], buffer.len));
                }
            }
            for place in step.reads.iter_mut().chain(&mut step.writes) {
                let buffer = place.slot;
                // Every value that is read has been written by a step before, or is pinned.
                let slot = at[buffer].unwrap_or(usize::MAX);
                let free = &mut free[place.kind as usize];
                if last_use[buffer] == i && !buffers[buffer].pinned && !free.contains(&slot) {
                    free.push(slot);
                }
                place.slot = slot;
            }
        }
        (slots, at.into_iter().map(|s| s.unwrap_or(usize::MAX)).collect())
    }

    fn of(&mut self, kind: PlaceKind) -> &mut Vec<Slot> {
        match kind {
            PlaceKind::Floats => &mut self.floats,
            PlaceKind::Ints => &mut self.ints,
        }
    }

    /// The elements of all slots.
    pub(super) fn n_elements(&self) -> usize {
        self.floats.iter().chain(&self.ints).map(|s| s.len).sum()
    }

    /// The slots as memory.
    pub(super) fn memory(&self) -> (Vec<Floats>, Vec<Vec<i32>>) {
        // Inputs, which come first, come last in memory: of those that are only ever lent to the plan no page is
        // touched then, but for one that is large and partly another's.
        let empty = self.floats.iter().rev().filter(|s| s.content.is_none());
        let mut zeros = Floats::together(&empty.map(|s| s.len).collect::<Vec<_>>());
        let floats = |s: &Slot| match &s.content {
            Some(content) => content.floats(s.len).unwrap_or_default(),
            None => zeros.pop().unwrap_or_default(),
        };
        let ints = |s: &Slot| match &s.content {
            Some(Content::Ints(x)) => x.clone(),
            _ => vec![0; s.len],
        };
        (self.floats.iter().map(floats).collect(), self.ints.iter().map(ints).collect())
    }
}

/// The smallest free slot that is large enough and not far too large, else the largest smaller one, which grows,
/// else a new one.
fn choose(slots: &mut Vec<Slot>, free: &mut Vec<usize>, len: usize) -> usize {
    let fits = |&(_, &s): &(usize, &usize)| (len..=8 * len.max(256)).contains(&slots[s].len);
    let found = free.iter().enumerate().filter(fits).min_by_key(|&(_, &s)| slots[s].len);
    let grows = |&(_, &s): &(usize, &usize)| (len / 2..len).contains(&slots[s].len);
    let found = found.or_else(|| free.iter().enumerate().filter(grows).max_by_key(|&(_, &s)| slots[s].len));
    match found.map(|(i, _)| i) {
        Some(i) => {
            let slot = free.swap_remove(i);
            slots[slot].len = slots[slot].len.max(len);
            slot
        }
        None => {
            slots.push(Slot { len, content: None });
            slots.len() - 1
        }
    }
}
