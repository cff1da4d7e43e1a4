//! Length-prefixed protobuf. The length is checked against the protocol's limit before a byte is allocated for it.

use std::{io, marker::PhantomData};

use bytes::{Buf, BytesMut};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};
use prost::Message;
use tokio_util::codec::{Decoder, Encoder};

use super::error::FrameError;

/// Largest prefix: five groups of seven bits, more than any limit needs.
const MAX_PREFIX: usize = 5;

/// Unsigned varint at the start of `bytes`: its value and length; `None` while more bytes are needed.
fn prefix(bytes: &[u8]) -> Result<Option<(u64, usize)>, FrameError> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(MAX_PREFIX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            // The shortest form only, as the multiformats specification asks.
            if *byte == 0 && index > 0 {
                return Err(FrameError::Malformed("the length has needless zero bytes".into()));
            }
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= MAX_PREFIX {
        return Err(FrameError::Malformed("the length is longer than five bytes".into()));
    }
    Ok(None)
}

fn check(size: u64, limit: usize) -> Result<usize, FrameError> {
    match usize::try_from(size) {
        Ok(length) if length <= limit => Ok(length),
        _ => Err(FrameError::TooLarge { size, limit }),
    }
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, FrameError> {
    M::decode(bytes).map_err(|error| FrameError::Malformed(error.to_string()))
}

/// Frames of a stream: writes `TX`, reads `RX`.
#[derive(Debug, Clone)]
pub struct FrameCodec<TX, RX> {
    limit: usize,
    messages: PhantomData<fn(TX) -> RX>,
}

impl<TX, RX> FrameCodec<TX, RX> {
    /// `limit`: largest frame in bytes, without its prefix.
    pub fn new(limit: usize) -> Self {
        FrameCodec { limit, messages: PhantomData }
    }
}

impl<TX: Message, RX> Encoder<&TX> for FrameCodec<TX, RX> {
    type Error = FrameError;

    fn encode(&mut self, message: &TX, buffer: &mut BytesMut) -> Result<(), FrameError> {
        check(message.encoded_len() as u64, self.limit)?;
        message.encode_length_delimited(buffer).map_err(|error| FrameError::Io(io::Error::other(error)))
    }
}

impl<TX, RX: Message + Default> Decoder for FrameCodec<TX, RX> {
    type Item = RX;
    type Error = FrameError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<RX>, FrameError> {
        let Some((size, prefix_length)) = prefix(buffer)? else { return Ok(None) };
        let length = check(size, self.limit)?;
        let total = prefix_length + length;
        if buffer.len() < total {
            buffer.reserve(total - buffer.len());
            return Ok(None);
        }
        buffer.advance(prefix_length);
        decode(&buffer.split_to(length)).map(Some)
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<RX>, FrameError> {
        match self.decode(buffer)? {
            None if !buffer.is_empty() => Err(FrameError::Malformed("the stream ended inside a frame".into())),
            frame => Ok(frame),
        }
    }
}

/// Request-response over the same frames. A frame that cannot be read is a value, not an IO error: so it can be counted
/// and answered with a reason.
#[derive(Debug)]
pub(super) struct MessageCodec<Q, R> {
    limit: usize,
    messages: PhantomData<fn(Q) -> R>,
}

impl<Q, R> MessageCodec<Q, R> {
    pub(super) fn new(limit: usize) -> Self {
        MessageCodec { limit, messages: PhantomData }
    }
}

impl<Q, R> Clone for MessageCodec<Q, R> {
    fn clone(&self) -> Self {
        Self::new(self.limit)
    }
}

impl<Q, R> request_response::Codec for MessageCodec<Q, R>
where
    Q: Message + Default + 'static,
    R: Message + Default + 'static,
{
    type Protocol = StreamProtocol;
    type Request = Result<Q, FrameError>;
    type Response = Result<R, FrameError>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Self::Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_message(io, self.limit).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Self::Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_message(io, self.limit).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Self::Request) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_message(io, request, self.limit).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Self::Response) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_message(io, response, self.limit).await
    }
}

async fn read_message<M, T>(io: &mut T, limit: usize) -> io::Result<Result<M, FrameError>>
where
    M: Message + Default,
    T: AsyncRead + Unpin + Send,
{
    match read_body(io, limit).await {
        Ok(body) => Ok(decode(&body)),
        Err(FrameError::Io(error)) => Err(error),
        Err(fault) => Ok(Err(fault)),
    }
}

async fn read_body<T: AsyncRead + Unpin + Send>(io: &mut T, limit: usize) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::with_capacity(MAX_PREFIX);
    let size = loop {
        let mut byte = [0];
        io.read_exact(&mut byte).await?;
        bytes.extend(byte);
        if let Some((size, _)) = prefix(&bytes)? {
            break size;
        }
    };
    let length = check(size, limit)?;
    // Grows with what arrives, not with what was announced.
    let mut body = Vec::new();
    io.take(size).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(FrameError::Malformed(format!("{} of {length} bytes came", body.len())));
    }
    Ok(body)
}

async fn write_message<M, T>(io: &mut T, message: Result<M, FrameError>, limit: usize) -> io::Result<()>
where
    M: Message,
    T: AsyncWrite + Unpin + Send,
{
    let message = message.map_err(io::Error::other)?;
    check(message.encoded_len() as u64, limit).map_err(io::Error::other)?;
    io.write_all(&message.encode_length_delimited_to_vec()).await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::wire::{BlobEvent, Hello, InferCommand, InferEvent, Start, infer_command};

    type Codec = FrameCodec<InferCommand, InferCommand>;

    fn start(prompt: &str) -> InferCommand {
        InferCommand { kind: Some(infer_command::Kind::Start(Start { prompt: prompt.into(), ..Start::default() })) }
    }

    #[test]
    fn frames_survive_any_chunking() {
        let mut codec = Codec::new(1 << 16);
        let mut wire = BytesMut::new();
        let sent = [start("one"), InferCommand { kind: None }, start(&"x".repeat(3000))];
        sent.iter().for_each(|frame| codec.encode(frame, &mut wire).unwrap());
        for chunk in [1, 2, 3, 7, 4096] {
            let mut buffer = BytesMut::new();
            let mut got = Vec::new();
            for part in wire.chunks(chunk) {
                buffer.extend_from_slice(part);
                while let Some(frame) = codec.decode(&mut buffer).unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, sent);
            assert!(codec.decode_eof(&mut buffer).unwrap().is_none());
        }
    }

    #[test]
    fn an_announced_length_over_the_limit_is_refused_before_any_allocation() {
        let mut codec = Codec::new(1000);
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0x7f][..]);
        let before = buffer.capacity();
        assert!(matches!(codec.decode(&mut buffer), Err(FrameError::TooLarge { limit: 1000, .. })));
        assert_eq!(buffer.capacity(), before);
    }

    #[test]
    fn lengths_in_a_long_form_and_endless_lengths_are_malformed() {
        for bytes in [&[0x80, 0x00][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01]] {
            let outcome = Codec::new(1000).decode(&mut BytesMut::from(bytes));
            assert!(matches!(outcome, Err(FrameError::Malformed(_))), "{bytes:?}: {outcome:?}");
        }
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_malformed() {
        let mut buffer = BytesMut::from(&[5, 1, 2][..]);
        assert!(matches!(Codec::new(1000).decode_eof(&mut buffer), Err(FrameError::Malformed(_))));
    }

    #[test]
    fn nothing_over_the_limit_is_sent() {
        let mut wire = BytesMut::new();
        assert!(matches!(
            Codec::new(100).encode(&start(&"x".repeat(200)), &mut wire),
            Err(FrameError::TooLarge { .. })
        ));
        assert!(wire.is_empty());
    }

    #[tokio::test]
    async fn an_oversized_request_is_a_counted_value_and_a_broken_stream_is_an_io_error() {
        let mut long = &[0xff, 0xff, 0x7f][..];
        let outcome = read_message::<Hello, _>(&mut long, 4096).await;
        assert!(matches!(outcome, Ok(Err(FrameError::TooLarge { .. }))));
        let mut none = &[][..];
        assert!(read_message::<Hello, _>(&mut none, 4096).await.is_err());
        let mut short = &[9, 1][..];
        assert!(matches!(read_message::<Hello, _>(&mut short, 4096).await, Ok(Err(FrameError::Malformed(_)))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever a stranger sends, in whatever pieces: no panic, and the buffer never grows beyond the limit, one read
        /// and the prefix.
        #[test]
        fn decoding_never_panics_and_never_allocates_above_the_limit(
            bytes in proptest::collection::vec(any::<u8>(), 0..4096),
            chunk in 1_usize..512,
            limit in 1_usize..2048,
        ) {
            let mut infer = FrameCodec::<InferCommand, InferEvent>::new(limit);
            let mut blob = FrameCodec::<InferCommand, BlobEvent>::new(limit);
            for codec in [&mut infer as &mut dyn AnyDecoder, &mut blob] {
                let mut buffer = BytesMut::new();
                'stream: for part in bytes.chunks(chunk) {
                    buffer.extend_from_slice(part);
                    loop {
                        match codec.step(&mut buffer) {
                            Some(true) => {}
                            Some(false) => break,
                            None => break 'stream,
                        }
                    }
                    // BytesMut doubles: twice the largest content it ever held.
                    prop_assert!(buffer.capacity() <= 2 * (limit + MAX_PREFIX + chunk) + 64, "{}", buffer.capacity());
                }
            }
        }

        #[test]
        fn any_frame_within_the_limit_round_trips(prompt in ".{0,300}", prefix in proptest::collection::vec(any::<u32>(), 0..50)) {
            let frame = InferCommand {
                kind: Some(infer_command::Kind::Start(Start { prompt, prefix, ..Start::default() })),
            };
            let mut codec = Codec::new(1 << 16);
            let mut wire = BytesMut::new();
            codec.encode(&frame, &mut wire).unwrap();
            prop_assert_eq!(codec.decode(&mut wire).unwrap(), Some(frame));
            prop_assert!(wire.is_empty());
        }
    }

    trait AnyDecoder {
        /// A frame, not yet, or refused.
        fn step(&mut self, buffer: &mut BytesMut) -> Option<bool>;
    }

    impl<TX, RX: Message + Default> AnyDecoder for FrameCodec<TX, RX> {
        fn step(&mut self, buffer: &mut BytesMut) -> Option<bool> {
            self.decode(buffer).ok().map(|frame| frame.is_some())
        }
    }
}
