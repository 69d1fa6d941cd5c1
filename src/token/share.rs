//! How a room that has a bound is shared by those who could fill it.

/// One's part of the room: this, and more only while as much is left free.
const SHARE: usize = 16;
/// What one may have of room that is empty but for its own.
const MOST: usize = 4;

/// Whether one who takes `own` of the `taken` places may take one more: a sixteenth of them all, or up to a quarter
/// while as much is left free.
pub(super) fn has_room(own: usize, taken: usize, count_max: usize) -> bool {
    let free = count_max.saturating_sub(taken);
    let most = (count_max / MOST).max(1);
    free > 0 && own < free.clamp(count_max / SHARE, most)
}
