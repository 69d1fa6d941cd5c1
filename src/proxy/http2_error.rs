//! The error codes of HTTP/2, as labels: streams and connections that we ended by one.

use crate::metrics::Label;

/// What an error ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Stream,
    Connection,
}

macro_rules! codes {
    ($($code:literal $name:ident = $label:literal,)+) => {
        /// RFC 9113 §7.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ErrorCode {
            $($name,)+
            Unknown,
        }

        impl ErrorCode {
            const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)+ ErrorCode::Unknown];

            /// What is no error has none.
            pub const fn read(code: u32) -> Option<ErrorCode> {
                match code {
                    0 => None,
                    $($code => Some(ErrorCode::$name),)+
                    _ => Some(ErrorCode::Unknown),
                }
            }

            const fn as_str(self) -> &'static str {
                match self {
                    $(ErrorCode::$name => $label,)+
                    ErrorCode::Unknown => "unknown",
                }
            }
        }

    };
}

codes! {
    0x1 ProtocolError = "protocol_error",
    0x2 InternalError = "internal_error",
    0x3 FlowControlError = "flow_control_error",
    0x4 SettingsTimeout = "settings_timeout",
    0x5 StreamClosed = "stream_closed",
    0x6 FrameSizeError = "frame_size_error",
    0x7 RefusedStream = "refused_stream",
    0x8 Cancel = "cancel",
    0x9 CompressionError = "compression_error",
    0xa ConnectError = "connect_error",
    0xb EnhanceYourCalm = "enhance_your_calm",
    0xc InadequateSecurity = "inadequate_security",
    0xd Http11Required = "http_1_1_required",
}

impl Label for Ended {
    const COUNT: usize = 2;

    fn all() -> Vec<Ended> {
        vec![Ended::Stream, Ended::Connection]
    }

    fn labels(self) -> Vec<(&'static str, &'static str)> {
        let value = match self {
            Ended::Stream => "stream",
            Ended::Connection => "connection",
        };
        vec![("ended", value)]
    }

    fn position(self) -> usize {
        self as usize
    }
}

impl Label for ErrorCode {
    const COUNT: usize = ErrorCode::ALL.len();

    fn all() -> Vec<ErrorCode> {
        ErrorCode::ALL.to_vec()
    }

    fn labels(self) -> Vec<(&'static str, &'static str)> {
        vec![("code", self.as_str())]
    }

    fn position(self) -> usize {
        self as usize
    }
}
