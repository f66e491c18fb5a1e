//! Bits out of entropy-coded data, with byte stuffing taken out.

/// What the longest code (17 bits, for one that does not exist) and the longest value take together.
const NEEDED: u32 = 33;

/// Reads the entropy-coded bytes of one scan, most significant bit first.
///
/// At a marker the data ends: from there on zeros are read, as libjpeg does, and [`Bits::starved`] says so. What
/// follows the data is found at [`Bits::resume_at`].
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// The next byte to take in.
    position: usize,
    /// Upcoming bits, the next one in the highest place.
    buffer: u64,
    /// How many bits of `buffer` count.
    count: u32,
    /// How many of them are made-up zeros, which stand at the end.
    zeros: u32,
    /// The marker at which the data ended, not yet dealt with.
    marker: Option<u8>,
    /// Whether the bytes ran out without a marker.
    truncated: bool,
}

impl<'a> Bits<'a> {
    /// Starts at `position` of `data`.
    pub(super) fn new(data: &'a [u8], position: usize) -> Bits<'a> {
        Bits { data, position, buffer: 0, count: 0, zeros: 0, marker: None, truncated: false }
    }

    /// Makes at least [`NEEDED`] bits available.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        if self.count >= NEEDED {
            return;
        }
        if let Some(bytes) = self.data.get(self.position..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_be_bytes(*bytes);
            // A byte 0xFF in `word` is a zero byte in its complement.
            let inverted = !word;
            let has_ff = inverted.wrapping_sub(0x0101_0101_0101_0101) & !inverted & 0x8080_8080_8080_8080;
            if has_ff == 0 && self.marker.is_none() {
                // Bits past the whole bytes counted here are the true ones too, so that the next refill may or
                // them in again.
                self.buffer |= word >> self.count;
                let taken = (63 - self.count) >> 3;
                self.position += taken as usize;
                self.count += taken * 8;
                return;
            }
        }
        self.refill_slowly();
    }

    #[cold]
    #[inline(never)]
    fn refill_slowly(&mut self) {
        while self.count <= 48 {
            let byte = match self.next_data_byte() {
                Some(byte) => byte,
                None => {
                    self.zeros += 8;
                    0
                }
            };
            self.buffer &= !(u64::MAX >> self.count);
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// The next byte of data; none at a marker or at the end of the bytes.
    fn next_data_byte(&mut self) -> Option<u8> {
        if self.marker.is_some() || self.truncated {
            return None;
        }
        let Some(&byte) = self.data.get(self.position) else {
            self.truncated = true;
            return None;
        };
        self.position += 1;
        if byte != 0xFF {
            return Some(byte);
        }
        loop {
            let Some(&code) = self.data.get(self.position) else {
                self.truncated = true;
                return None;
            };
            self.position += 1;
            match code {
                0xFF => {}
                0 => return Some(0xFF),
                marker => {
                    self.marker = Some(marker);
                    return None;
                }
            }
        }
    }

    /// The next `n` bits without taking them; `n` from 1 to 32, after a [`Bits::refill`].
    #[inline(always)]
    pub(super) fn peek(&self, n: u32) -> u32 {
        (self.buffer >> (64 - n)) as u32
    }

    /// Passes over `n` bits, not more than are there.
    #[inline(always)]
    pub(super) fn skip(&mut self, n: u32) {
        self.buffer <<= n;
        self.count -= n;
    }

    /// Takes `n` bits, up to 16, after a [`Bits::refill`].
    #[inline(always)]
    pub(super) fn take(&mut self, n: u32) -> u32 {
        if n == 0 {
            return 0;
        }
        let bits = self.peek(n);
        self.skip(n);
        bits
    }

    /// Takes one bit, with a refill of its own.
    #[inline(always)]
    pub(super) fn take_one(&mut self) -> bool {
        self.refill();
        self.take(1) == 1
    }

    /// Whether made-up zeros have been taken: the data of this restart interval is used up.
    #[inline(always)]
    pub(super) fn starved(&self) -> bool {
        self.count < self.zeros
    }

    /// Whether the bytes ran out without a marker.
    pub(super) fn truncated(&self) -> bool {
        self.truncated
    }

    /// Ends a restart interval: drops what is buffered and looks for restart marker number `expected` (0 to 7).
    ///
    /// A marker that is missing or out of turn is dealt with as libjpeg's `jpeg_resync_to_restart` does, so that
    /// damaged files give the same pixels. Returns whether data may follow; if not, the marker found is left.
    pub(super) fn restart(&mut self, expected: u8) -> bool {
        // Bytes that were buffered but not used lie before the next marker and are of no use.
        self.buffer = 0;
        self.count = 0;
        self.zeros = 0;
        if self.marker.is_none() && !self.find_marker() {
            return false;
        }
        loop {
            let Some(marker) = self.marker else { return false };
            let advance = match marker {
                0xD0..=0xD7 => match (marker.wrapping_sub(0xD0).wrapping_sub(expected)) & 7 {
                    1 | 2 => return false,
                    6 | 7 => true,
                    _ => false,
                },
                0xC0..=0xFF => return false,
                _ => true,
            };
            self.marker = None;
            if !advance {
                return true;
            }
            if !self.find_marker() {
                return false;
            }
        }
    }

    fn find_marker(&mut self) -> bool {
        match find_marker(self.data, self.position) {
            Some((marker, after)) => {
                self.marker = Some(marker);
                self.position = after;
                true
            }
            None => {
                self.truncated = true;
                false
            }
        }
    }

    /// Where the next marker is to be looked for, once the scan is done.
    pub(super) fn resume_at(&self) -> usize {
        // A marker that was run into is two bytes back; what was buffered ahead holds no marker.
        if self.marker.is_some() { self.position - 2 } else { self.position }
    }
}

/// The first marker at or after `position`, and the position after it.
pub(super) fn find_marker(data: &[u8], mut position: usize) -> Option<(u8, usize)> {
    loop {
        position += data.get(position..)?.iter().position(|&byte| byte == 0xFF)?;
        position += data.get(position..)?.iter().position(|&byte| byte != 0xFF)?;
        let code = *data.get(position)?;
        position += 1;
        if code != 0 {
            return Some((code, position));
        }
    }
}
