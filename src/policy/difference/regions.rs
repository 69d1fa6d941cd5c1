pub struct Region;
pub fn regions() {}
