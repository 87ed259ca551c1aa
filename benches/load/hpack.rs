//! As much of HPACK (RFC 7541) as reading a server's answers takes.
//!
//! Must stay true: what can't be read is an error, never taken for an answer that is fine.

/// A header as far as it matters here.
#[derive(Clone, PartialEq, Eq)]
struct Field {
    name: Vec<u8>,
    value: Vec<u8>,
}

/// What a header block says.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Said {
    pub http: Option<u16>,
    pub grpc: Option<u32>,
}

/// The decoder of one connection.
#[derive(Default)]
pub struct Decoder {
    /// The newest first.
    table: Vec<Field>,
    /// The last block that was all indexes, and what it said: answers repeat themselves.
    last: [(Vec<u8>, Said); 2],
}

const TABLE: usize = 4096;
const UNREADABLE: &str = "a header block that can't be read";
type Result<T> = std::result::Result<T, String>;

impl Decoder {
    /// Reads one block.
    pub fn read(&mut self, block: &[u8]) -> Result<Said> {
        if let Some((_, said)) = self.last.iter().find(|(known, _)| known == block) {
            return Ok(*said);
        }
        let (said, indexed) = self.decode(block)?;
        if indexed {
            self.last.swap(0, 1);
            self.last[0] = (block.to_vec(), said);
        }
        Ok(said)
    }

    fn decode(&mut self, block: &[u8]) -> Result<(Said, bool)> {
        let mut said = Said::default();
        let mut indexed = !block.is_empty();
        let mut rest = block;
        while let Some(&first) = rest.first() {
            let field = if first & 0x80 != 0 {
                let index = integer(&mut rest, 7)?;
                self.field(index)?
            } else if first & 0xe0 == 0x20 {
                indexed = false;
                let size = integer(&mut rest, 5)?;
                if size > TABLE {
                    return Err(UNREADABLE.to_owned());
                }
                self.evict(size);
                continue;
            } else {
                indexed = false;
                let keep = first & 0x40 != 0;
                let index = integer(&mut rest, if keep { 6 } else { 4 })?;
                let name = if index == 0 { string(&mut rest)? } else { self.field(index)?.name };
                let field = Field { name, value: string(&mut rest)? };
                if keep {
                    let size = field.name.len() + field.value.len() + 32;
                    self.evict(TABLE.saturating_sub(size));
                    self.table.insert(0, field.clone());
                    // Indexes mean something else now.
                    self.last = Default::default();
                }
                field
            };
            let number = || std::str::from_utf8(&field.value).ok()?.parse::<u32>().ok();
            match field.name.as_slice() {
                b":status" => said.http = number().and_then(|n| n.try_into().ok()),
                b"grpc-status" => said.grpc = number(),
                _ => {}
            }
        }
        Ok((said, indexed))
    }

    fn evict(&mut self, most: usize) {
        let mut size = 0;
        let fits = |field: &&Field| {
            size += field.name.len() + field.value.len() + 32;
            size <= most
        };
        let keep = self.table.iter().take_while(fits).count();
        self.table.truncate(keep);
    }

    fn field(&self, index: usize) -> Result<Field> {
        let of = |name: &str, value: &str| Field { name: name.into(), value: value.into() };
        Ok(match index {
            0 => return Err(UNREADABLE.to_owned()),
            8 => of(":status", "200"),
            9..=14 => of(":status", ["204", "206", "304", "400", "404", "500"][index - 9]),
            28 => of("content-length", ""),
            31 => of("content-type", ""),
            33 => of("date", ""),
            54 => of("server", ""),
            // No answer of a gRPC server has any other; its length would be needed.
            1..=61 => return Err(format!("{UNREADABLE}: static field {index}")),
            _ => self.table.get(index - 62).ok_or(UNREADABLE)?.clone(),
        })
    }
}

fn integer(rest: &mut &[u8], bits: u32) -> Result<usize> {
    let mut next = || -> Result<usize> {
        let (&first, after) = rest.split_first().ok_or(UNREADABLE)?;
        *rest = after;
        Ok(first.into())
    };
    let most = (1 << bits) - 1;
    let mut value = next()? & most;
    if value == most {
        for shift in [0, 7, 14] {
            let byte = next()?;
            value += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        return Err(UNREADABLE.to_owned());
    }
    Ok(value)
}

fn string(rest: &mut &[u8]) -> Result<Vec<u8>> {
    let packed = rest.first().ok_or(UNREADABLE)? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let (text, after) = rest.split_at_checked(length).ok_or(UNREADABLE)?;
    *rest = after;
    if packed { unpack(text) } else { Ok(text.to_vec()) }
}

/// The code's shortest words, 5 to 8 bits long: enough for what servers answer with.
fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    const WORDS: [(u32, u32, &[u8]); 4] = [
        (5, 0x00, b"012aceiost"),
        (6, 0x14, b" %-./3456789=A_bdfghlmnpru"),
        (7, 0x5c, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
        (8, 0xf8, b"&*,;XZ"),
    ];
    let mut text = Vec::with_capacity(packed.len() * 2);
    let (mut word, mut bits) = (0u32, 0u32);
    for &byte in packed {
        for place in (0..8).rev() {
            word = word << 1 | u32::from(byte >> place & 1);
            bits += 1;
            let found = WORDS.iter().find_map(|&(length, first, letters)| {
                (bits == length).then(|| letters.get(word.checked_sub(first)? as usize)).flatten()
            });
            if let Some(&letter) = found {
                text.push(letter);
                (word, bits) = (0, 0);
            }
        }
    }
    // What is left over is the beginning of a word of ones.
    if bits < 8 && word == (1 << bits) - 1 { Ok(text) } else { Err(UNREADABLE.to_owned()) }
}
