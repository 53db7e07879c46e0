//! WAV files: 16-bit mono 8 kHz in and out.

use std::{
    fs::File,
    io::{BufReader, Cursor, Read},
    path::Path,
    sync::Arc,
};

use super::{Codec, SAMPLE_RATE};

/// Why a file cannot be played, or a recording not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WavError {
    /// Cannot be opened or read, or is no WAV file.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: hound::Error,
    },
    /// Another format. `sox in.wav -r 8000 -c 1 -b 16 out.wav` converts it.
    #[error(
        "{path}: {channels} channel(s), {rate} Hz, {bits} bit: only 16-bit mono 8000 Hz can be played \
         (convert with: sox {path} -r 8000 -c 1 -b 16 converted.wav)"
    )]
    Format {
        /// The file.
        path: String,
        /// Its channels.
        channels: u16,
        /// Its samples per second.
        rate: u32,
        /// Bits of a sample.
        bits: u16,
    },
    /// No sample in it, or more than [`Audio::MAX_SECONDS`].
    #[error("{path}: empty, or longer than {} s", Audio::MAX_SECONDS)]
    Length {
        /// The file.
        path: String,
    },
}

/// Speech to play: 16-bit samples at 8 kHz. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audio(Arc<[i16]>);

impl Audio {
    /// Longest file that is played.
    pub const MAX_SECONDS: u32 = 600;

    /// The caller's sample that comes with the program.
    #[must_use]
    pub fn speech() -> Self {
        Self::built_in(include_bytes!("../../assets/speech.wav"))
    }

    /// The callee's sample that comes with the program.
    #[must_use]
    pub fn reply() -> Self {
        Self::built_in(include_bytes!("../../assets/reply.wav"))
    }

    fn built_in(file: &[u8]) -> Self {
        // A test plays both: an unreadable one would be noticed. Silence is no reason to end a program.
        Self::decode("built-in sample", Cursor::new(file))
            .unwrap_or_else(|_| Self::from_samples(vec![0; 8000]))
    }

    /// Takes samples.
    #[must_use]
    pub fn from_samples(samples: Vec<i16>) -> Self {
        Self(samples.into())
    }

    /// Reads a WAV file.
    ///
    /// # Errors
    ///
    /// See [`WavError`].
    pub fn read(path: &Path) -> Result<Self, WavError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| WavError::Read {
            path: name.clone(),
            source: error.into(),
        })?;
        Self::decode(&name, BufReader::new(file))
    }

    fn decode(path: &str, file: impl Read) -> Result<Self, WavError> {
        let path = path.to_owned();
        let reader = match hound::WavReader::new(file) {
            Ok(reader) => reader,
            Err(source) => return Err(WavError::Read { path, source }),
        };
        let spec = reader.spec();
        let is_good = spec.channels == 1
            && spec.sample_rate == SAMPLE_RATE
            && spec.bits_per_sample == 16
            && spec.sample_format == hound::SampleFormat::Int;
        if !is_good {
            return Err(WavError::Format {
                path,
                channels: spec.channels,
                rate: spec.sample_rate,
                bits: spec.bits_per_sample,
            });
        }
        if reader.duration() == 0 || reader.duration() > Self::MAX_SECONDS * SAMPLE_RATE {
            return Err(WavError::Length { path });
        }
        match reader.into_samples().collect::<Result<Vec<i16>, _>>() {
            Ok(samples) => Ok(Self::from_samples(samples)),
            Err(source) => Err(WavError::Read { path, source }),
        }
    }

    /// The samples.
    #[must_use]
    pub fn samples(&self) -> &[i16] {
        &self.0
    }

    /// Writes G.711 payload as a 16-bit WAV file.
    ///
    /// # Errors
    ///
    /// [`WavError::Read`] with what the file system says.
    pub fn write(path: &Path, codec: Codec, payload: &[u8]) -> Result<(), WavError> {
        Self::from_samples(codec.decode(payload)).save(path)
    }

    /// Writes a WAV file.
    ///
    /// # Errors
    ///
    /// [`WavError::Read`] with what the file system says.
    pub fn save(&self, path: &Path) -> Result<(), WavError> {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: SAMPLE_RATE,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let write = || {
            let mut writer = hound::WavWriter::create(path, spec)?;
            for sample in self.samples() {
                writer.write_sample(*sample)?;
            }
            writer.finalize()
        };
        write().map_err(|source| WavError::Read {
            path: path.display().to_string(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_that_come_along_are_five_seconds_of_sound() {
        let (speech, reply) = (Audio::speech(), Audio::reply());
        assert_ne!(speech, reply);
        for audio in [speech, reply] {
            assert_eq!(audio.samples().len(), 40_000);
            assert!(audio.samples().iter().any(|s| s.abs() > 8000));
        }
    }

    #[test]
    fn recordings_read_back_and_other_formats_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        let payload = Codec::Pcma.encode(&[0, 100, -100, 3000]);
        Audio::write(&path, Codec::Pcma, &payload).unwrap();
        let audio = Audio::read(&path).unwrap();
        assert_eq!(Codec::Pcma.encode(audio.samples()), payload);

        let spec = hound::WavSpec {
            channels: 2,
            sample_rate: 44_100,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(&path, spec).unwrap();
        writer.write_sample(1i16).unwrap();
        writer.write_sample(1i16).unwrap();
        writer.finalize().unwrap();
        let error = Audio::read(&path).unwrap_err();
        assert!(matches!(
            error,
            WavError::Format {
                channels: 2,
                rate: 44_100,
                ..
            }
        ));
        assert!(error.to_string().contains("sox"), "says what to do");

        std::fs::write(&path, b"not a wav").unwrap();
        assert!(matches!(Audio::read(&path), Err(WavError::Read { .. })));
        Audio::write(&path, Codec::Pcmu, &[]).unwrap();
        assert!(matches!(Audio::read(&path), Err(WavError::Length { .. })));
    }
}
