//! Times each operation of a pass between two events.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use siglip::profile::{Kind, Profile};

use crate::error::CudaError;
use crate::gpu::Gpu;
use crate::stream::{Event, Stream};

/// Measures a pass that is put into a stream operation by operation. For passes that are small next to what the host
/// takes to launch them, a graph being what makes that cheap, the launches are measured with them.
pub(crate) struct Clock<'a> {
    gpu: &'a Arc<Gpu>,
    stream: &'a Stream,
    laps: RefCell<Vec<Lap>>,
}

struct Lap {
    kind: Kind,
    flop: u64,
    start: Event,
    end: Event,
}

impl<'a> Clock<'a> {
    pub(crate) fn new(gpu: &'a Arc<Gpu>, stream: &'a Stream) -> Self {
        Clock { gpu, stream, laps: RefCell::default() }
    }

    /// Puts an operation into the stream between two events.
    pub(crate) fn time(
        &self,
        kind: Kind,
        flop: u64,
        launch: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let lap = Lap { kind, flop, start: Event::timed(self.gpu)?, end: Event::timed(self.gpu)? };
        lap.start.record(self.stream)?;
        launch()?;
        lap.end.record(self.stream)?;
        self.laps.borrow_mut().push(lap);
        Ok(())
    }

    /// Waits for the pass, and adds its operations to a profile.
    pub(crate) fn add_to(self, profile: &Profile) -> Result<(), CudaError> {
        self.stream.wait()?;
        for lap in self.laps.into_inner() {
            let milliseconds = lap.end.milliseconds_since(&lap.start)?;
            profile.add(lap.kind, Duration::from_secs_f32(milliseconds.max(0.0) / 1e3), lap.flop);
        }
        Ok(())
    }
}
