//! Reproducible pseudorandom numbers.

/// Marsaglia's xorshift. The seed must not be 0.
pub struct Dice(pub u64);

impl Dice {
    /// Returns a number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    /// Returns one of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let sides = u64::try_from(of.len()).expect("few");
        if sides == 0 { None } else { of.get(usize::try_from(self.roll(sides)).expect("few")) }
    }
}
