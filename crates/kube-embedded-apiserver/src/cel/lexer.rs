//! Tokens.

/// A token, and where it starts, in characters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) end: usize,
    pub(super) kind: TokenKind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind {
    Ident(String),
    Int(String),
    Uint(String),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// An operator, bracket or keyword.
    Symbol(&'static str),
    End,
}

/// Longer ones first.
const SYMBOLS: [&str; 24] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",",
    "(", ")", "[", "]", "{", "}",
];

/// Words that are no names.
pub(crate) const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// An error and its place.
pub(super) type Located = (usize, String);

/// Splits an expression into tokens. What is none is left out, with an error.
pub(super) fn tokens(chars: &[char]) -> (Vec<Token>, Vec<Located>) {
    let mut lexer = Lexer { chars, at: 0 };
    let (mut tokens, mut errors) = (Vec::new(), Vec::new());
    loop {
        lexer.skip_space();
        let at = lexer.at;
        let Some(c) = lexer.peek(0) else {
            tokens.push(Token { at, end: at, kind: TokenKind::End });
            return (tokens, errors);
        };
        let kind = match c {
            '"' | '\'' => lexer.string(at, false, false).map(|of| TokenKind::Text(text_of(of))),
            '0'..='9' => lexer.number(),
            '.' if lexer.peek(1).is_some_and(|c| c.is_ascii_digit()) => lexer.number(),
            'a'..='z' | 'A'..='Z' | '_' => lexer.word(),
            '`' => lexer.quoted(),
            _ => lexer.symbol(),
        };
        match kind {
            Ok(kind) => tokens.push(Token { at, end: lexer.at, kind }),
            Err(error) => errors.push(error),
        }
    }
}

struct Lexer<'a> {
    chars: &'a [char],
    at: usize,
}

fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

fn syntax<T>(at: usize, what: &str) -> Result<T, Located> {
    Err((at, format!("Syntax error: {what}")))
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    /// The error for what was read so far and is no token.
    fn unknown<T>(&self, from: usize) -> Result<T, Located> {
        let end = self.at.min(self.chars.len());
        let given: String = self.chars[from.min(end)..end].iter().collect();
        syntax(from, &format!("token recognition error at: '{given}'"))
    }

    fn skip_space(&mut self) {
        while let Some(c) = self.peek(0) {
            if c == '/' && self.peek(1) == Some('/') {
                while self.peek(0).is_some_and(|c| c != '\n') {
                    self.at += 1;
                }
            } else if c.is_ascii_whitespace() {
                self.at += 1;
            } else {
                return;
            }
        }
    }

    fn symbol(&mut self) -> Result<TokenKind, Located> {
        for symbol in SYMBOLS {
            if symbol.chars().enumerate().all(|(n, c)| self.peek(n) == Some(c)) {
                self.at += symbol.len();
                return Ok(TokenKind::Symbol(symbol));
            }
        }
        self.at += 1;
        self.unknown(self.at - 1)
    }

    /// A name, a keyword, or the prefix of a string.
    fn word(&mut self) -> Result<TokenKind, Located> {
        let from = self.at;
        let mut end = from;
        while self.chars.get(end).is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_') {
            end += 1;
        }
        let word: String = self.chars[from..end].iter().collect();
        let lower = word.to_ascii_lowercase();
        let quoted = self.chars.get(end).is_some_and(|c| matches!(c, '"' | '\''));
        if quoted && matches!(&*lower, "r" | "b" | "rb" | "br") {
            self.at = end;
            let (raw, bytes) = (lower.contains('r'), lower.contains('b'));
            let value = self.string(from, raw, bytes)?;
            return Ok(match bytes {
                true => TokenKind::Bytes(value),
                false => TokenKind::Text(text_of(value)),
            });
        }
        self.at = end;
        Ok(match &*word {
            "in" => TokenKind::Symbol("in"),
            "true" => TokenKind::Symbol("true"),
            "false" => TokenKind::Symbol("false"),
            "null" => TokenKind::Symbol("null"),
            _ => TokenKind::Ident(word),
        })
    }

    /// A name in back quotes, which cel-go takes after a dot.
    fn quoted(&mut self) -> Result<TokenKind, Located> {
        let from = self.at + 1;
        let end = self.chars.iter().skip(from).position(|c| *c == '`').map(|n| from + n);
        let Some(end) = end else {
            self.at += 1;
            return self.unknown(from - 1);
        };
        self.at = end + 1;
        Ok(TokenKind::Ident(self.chars[from..end].iter().collect()))
    }

    fn number(&mut self) -> Result<TokenKind, Located> {
        let from = self.at;
        let hex = self.peek(0) == Some('0') && matches!(self.peek(1), Some('x' | 'X'));
        let mut double = false;
        if hex {
            self.at += 2;
        }
        while let Some(c) = self.peek(0) {
            let exponent = !hex && matches!(c, 'e' | 'E');
            let point = !hex && c == '.' && self.peek(1).is_some_and(|c| c.is_ascii_digit());
            if exponent {
                double = true;
                self.at += usize::from(matches!(self.peek(1), Some('+' | '-')));
            } else if point {
                double = true;
            } else if !(c.is_ascii_digit() || hex && c.is_ascii_hexdigit()) {
                break;
            }
            self.at += 1;
        }
        let digits: String = self.chars[from..self.at].iter().collect();
        if double {
            return match digits.parse() {
                Ok(number) => Ok(TokenKind::Double(number)),
                Err(_) => syntax(from, "invalid double literal"),
            };
        }
        if matches!(self.peek(0), Some('u' | 'U')) {
            self.at += 1;
            return Ok(TokenKind::Uint(digits));
        }
        Ok(TokenKind::Int(digits))
    }

    /// The inside of a string in one or three quotes.
    fn string(&mut self, from: usize, raw: bool, bytes: bool) -> Result<Vec<u8>, Located> {
        let quote = self.peek(0).unwrap_or_default();
        let count = if self.peek(1) == Some(quote) && self.peek(2) == Some(quote) { 3 } else { 1 };
        self.at += count;
        let mut value = Vec::new();
        loop {
            let Some(c) = self.peek(0).filter(|c| count == 3 || *c != '\n') else {
                return self.unknown(from);
            };
            if (0..count).all(|n| self.peek(n) == Some(quote)) {
                self.at += count;
                return Ok(value);
            }
            self.at += 1;
            if c == '\\' && !raw {
                self.escape(from, bytes, &mut value)?;
            } else if c == '\\' && self.peek(0).is_some() {
                // In a raw string a backslash stays, and so does what it stands before.
                value.push(b'\\');
                push(&mut value, self.peek(0).unwrap_or_default());
                self.at += 1;
            } else {
                push(&mut value, c);
            }
        }
    }

    /// One escape of the string that began at `from`.
    fn escape(&mut self, from: usize, bytes: bool, value: &mut Vec<u8>) -> Result<(), Located> {
        let Some(c) = self.peek(0) else { return Ok(()) };
        self.at += 1;
        let simple = match c {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            '\\' | '\'' | '"' | '`' | '?' => c,
            'x' | 'X' => return self.code(from, 2, 16, bytes, value),
            'u' => return self.code(from, 4, 16, false, value),
            'U' => return self.code(from, 8, 16, false, value),
            '0'..='3' => {
                self.at -= 1;
                return self.code(from, 3, 8, bytes, value);
            }
            _ => return self.unknown(from),
        };
        push(value, simple);
        Ok(())
    }

    fn code(
        &mut self,
        from: usize,
        digits: usize,
        radix: u32,
        byte: bool,
        value: &mut Vec<u8>,
    ) -> Result<(), Located> {
        let text: String = self.chars.iter().skip(self.at).take(digits).collect();
        let code = u32::from_str_radix(&text, radix).ok().filter(|_| text.len() == digits);
        self.at += digits;
        match (code, byte) {
            (Some(code), true) => value.extend(u8::try_from(code)),
            (Some(code), false) if char::from_u32(code).is_some() => {
                push(value, char::from_u32(code).unwrap_or_default());
            }
            _ => return self.unknown(from),
        }
        Ok(())
    }
}

fn push(value: &mut Vec<u8>, c: char) {
    value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}
