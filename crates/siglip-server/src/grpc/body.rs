//! Requests that stand still, or nearly, and those that may.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

use crate::pace::{Late, Pace};

/// The methods to which clients send messages when they have some: what is late on these is not known.
const STREAMS: [&str; 2] = [
    "/inference.GRPCInferenceService/ModelStreamInfer",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Ends a request that is late, if it is of one message. A stream ends when the server is to stop: nobody knows whether
/// its client has anything more to say, and the answers that it waits for are still given.
pub(super) fn watch(
    request: Request<Body>,
    patience: Duration,
    mut stop: watch::Receiver<bool>,
) -> Request<Body> {
    if request.body().is_end_stream() {
        return request;
    }
    if STREAMS.contains(&request.uri().path()) {
        let stopped = Box::pin(async move {
            // An error means that the sender is gone, and the server with it.
            let _ = stop.wait_for(|stop| *stop).await;
        });
        return request.map(|body| Body::new(Stream { body, stopped }));
    }
    request.map(|body| Body::new(Watched { body, pace: Pace::new(patience), timer: None }))
}

/// Messages as long as the server takes any.
struct Stream {
    body: Body,
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        // First what has arrived, so that no message is lost that is there.
        let frame = Pin::new(&mut this.body).poll_frame(context);
        if frame.is_pending() && this.stopped.as_mut().poll(context).is_ready() {
            this.body = Body::empty();
            return Poll::Ready(None);
        }
        frame
    }
}

struct Watched {
    body: Body,
    pace: Pace,
    /// Runs while nothing is there.
    timer: Option<(Pin<Box<Sleep>>, Late)>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = Pin::new(&mut this.body).poll_frame(context);
        if frame.is_ready() {
            if let Poll::Ready(Some(Ok(frame))) = &frame {
                this.pace.passed(frame.data_ref().map_or(0, Bytes::len));
            }
            this.timer = None;
            return frame;
        }
        let (timer, late) = this.timer.get_or_insert_with(|| {
            let (deadline, late) = this.pace.deadline();
            (Box::pin(tokio::time::sleep_until(deadline)), late)
        });
        timer.as_mut().poll(context).map(|()| Some(Err(Status::deadline_exceeded(late.to_string()))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
