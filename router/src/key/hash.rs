//! PostgreSQL's extended hash functions with seed 0 (`hash_bytes_extended`): Bob Jenkins' lookup3 over little-endian words.
//! The slots of existing rows depend on every bit of it; `tests` holds values that PostgreSQL computed.

/// The state's start value; PostgreSQL adds the length and a constant of its own to lookup3's golden ratio.
const START: u32 = 0x9e37_79b9_u32.wrapping_add(3_923_095);

/// `hashint8extended(value, 0)`. Folds the high half in such a way that int2, int4 and int8 hash alike.
#[inline]
pub fn int8(value: i64) -> u64 {
    let low = value as u32;
    let high = (value >> 32) as u32;
    let folded = low ^ if value >= 0 { high } else { !high };
    let mut state = State::new(4);
    state.a = state.a.wrapping_add(folded);
    state.finish()
}

/// `hash_any_extended(bytes, 0)`: what `hashtextextended` and `uuid_hash_extended` return.
#[inline]
pub fn bytes(bytes: &[u8]) -> u64 {
    let mut state = State::new(bytes.len() as u32);
    let mut blocks = bytes.chunks_exact(12);
    for block in &mut blocks {
        state.add(block);
        state.mix();
    }
    state.add_tail(blocks.remainder());
    state.finish()
}

struct State {
    a: u32,
    b: u32,
    c: u32,
}

impl State {
    #[inline]
    fn new(length: u32) -> Self {
        let start = START.wrapping_add(length);
        Self { a: start, b: start, c: start }
    }

    /// Adds twelve bytes as three words.
    #[inline]
    fn add(&mut self, block: &[u8]) {
        self.a = self.a.wrapping_add(word(&block[..4]));
        self.b = self.b.wrapping_add(word(&block[4..8]));
        self.c = self.c.wrapping_add(word(&block[8..12]));
    }

    /// Adds the last zero to eleven bytes. The lowest byte of `c` is the length's: what belongs there moves up by one.
    #[inline]
    fn add_tail(&mut self, tail: &[u8]) {
        let mut block = [0; 13];
        let (ab, c) = tail.split_at(tail.len().min(8));
        block[..ab.len()].copy_from_slice(ab);
        block[9..9 + c.len()].copy_from_slice(c);
        self.add(&block[..12]);
    }

    #[inline]
    fn mix(&mut self) {
        let Self { a, b, c } = self;
        step(a, b, c, 4);
        step(b, c, a, 6);
        step(c, a, b, 8);
        step(a, b, c, 16);
        step(b, c, a, 19);
        step(c, a, b, 4);
    }

    #[inline]
    fn finish(mut self) -> u64 {
        let Self { a, b, c } = &mut self;
        last(c, *b, 14);
        last(a, *c, 11);
        last(b, *a, 25);
        last(c, *b, 16);
        last(a, *c, 4);
        last(b, *a, 14);
        last(c, *b, 24);
        (u64::from(self.b) << 32) | u64::from(self.c)
    }
}

#[inline]
fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// One of the six steps of lookup3's `mix`.
#[inline]
fn step(x: &mut u32, y: &mut u32, z: &mut u32, by: u32) {
    *x = x.wrapping_sub(*z) ^ z.rotate_left(by);
    *z = z.wrapping_add(*y);
}

/// One of the seven steps of lookup3's `final`.
#[inline]
fn last(x: &mut u32, y: u32, by: u32) {
    *x = (*x ^ y).wrapping_sub(y.rotate_left(by));
}

#[cfg(test)]
#[path = "hash_tests.rs"]
mod tests;
