//! Pictures: colours walk in, the bytes of a PNG file walk out.
//!
//! Source: PNG specification, third edition, <https://www.w3.org/TR/png-3/>.

use std::io;
use std::io::Write;

use flate2::Compression;
use flate2::Crc;
use flate2::write::ZlibEncoder;

/// A picture of 8 bits each of red, green and blue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canvas {
    width: u32,
    height: u32,
    colours: Vec<[u8; 3]>,
}

impl Canvas {
    /// A picture of one colour, or `None` if it has no pixel or more than 2^28.
    pub fn new(width: u32, height: u32, colour: [u8; 3]) -> Option<Self> {
        let pixels = u64::from(width) * u64::from(height);
        (1..=1 << 28).contains(&pixels).then(|| Self {
            width,
            height,
            colours: vec![colour; pixels as usize],
        })
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Colours, row by row from the top.
    pub fn colours(&self) -> &[[u8; 3]] {
        &self.colours
    }

    /// Fills a rectangle; what lies outside of the picture is left out.
    pub fn fill(&mut self, left: u32, top: u32, width: u32, height: u32, colour: [u8; 3]) {
        let right = left.saturating_add(width).min(self.width) as usize;
        let bottom = top.saturating_add(height).min(self.height);
        for row in top..bottom {
            let row = &mut self.colours[row as usize * self.width as usize..];
            if let Some(part) = row.get_mut(left as usize..right) {
                part.fill(colour);
            }
        }
    }

    /// The bytes of a PNG file.
    pub fn to_png(&self) -> Vec<u8> {
        let mut png = vec![0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n'];
        let mut header = Vec::new();
        header.extend(self.width.to_be_bytes());
        header.extend(self.height.to_be_bytes());
        // 8 bits, colours, and the only compression, filter and order there is for them.
        header.extend([8, 2, 0, 0, 0]);
        append_chunk(&mut png, *b"IHDR", &header);
        let data = self.compressed().expect("a vector takes every byte");
        append_chunk(&mut png, *b"IDAT", &data);
        append_chunk(&mut png, *b"IEND", &[]);
        png
    }

    fn compressed(&self) -> io::Result<Vec<u8>> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        for row in self.colours.chunks_exact(self.width as usize) {
            // Each row begins with its filter: none.
            encoder.write_all(&[0])?;
            encoder.write_all(row.as_flattened())?;
        }
        encoder.finish()
    }
}

fn append_chunk(png: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    png.extend((data.len() as u32).to_be_bytes());
    let mut sum = Crc::new();
    sum.update(&kind);
    sum.update(data);
    png.extend(kind);
    png.extend(data);
    png.extend(sum.sum().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::ZlibDecoder;

    use super::*;

    #[test]
    fn pictures_are_written_as_specified() {
        let mut canvas = Canvas::new(3, 2, [1, 2, 3]).unwrap();
        canvas.fill(1, 1, 9, 9, [7, 8, 9]);
        canvas.fill(3, 0, 1, 1, [0; 3]);
        canvas.fill(u32::MAX, 0, 1, 1, [0; 3]);
        let png = canvas.to_png();
        assert_eq!(png[..8], *b"\x89PNG\r\n\x1a\n");
        // Lengths, kinds and the sum that zlib.crc32 of Python 3.11 gives.
        assert_eq!(png[8..16], *b"\x00\x00\x00\x0dIHDR");
        assert_eq!(png[16..29], [0, 0, 0, 3, 0, 0, 0, 2, 8, 2, 0, 0, 0]);
        assert_eq!(png[29..33], HEADER_SUM.to_be_bytes());
        assert_eq!(png[png.len() - 12..], *b"\0\0\0\0IEND\xae\x42\x60\x82");
        let mut rows = Vec::new();
        ZlibDecoder::new(&png[41..]).read_to_end(&mut rows).unwrap();
        assert_eq!(
            rows,
            [0, 1, 2, 3, 1, 2, 3, 1, 2, 3, 0, 1, 2, 3, 7, 8, 9, 7, 8, 9]
        );
    }

    const HEADER_SUM: u32 = 303493453;

    #[test]
    fn sizes_are_bounded() {
        assert!(Canvas::new(0, 1, [0; 3]).is_none());
        assert!(Canvas::new(u32::MAX, u32::MAX, [0; 3]).is_none());
    }
}
