//! The text of MIL: reading it into a [`Program`](crate::ir::Program), and printing it as Apple's compiler does.
//!
//! [`parse`] knows the grammar and none of the ops. It takes the texts that coremlc writes, those that
//! generators for the engine write (other layout, decimal numbers, comments) and the dumps of Apple's engine
//! compiler. There are two dialects, one for each [`Version`](crate::ir::Version): they differ in how scalars are
//! spelled, and either spelling is read in either version. [`print()`] writes coremlc's layout in the dialect of
//! the program's version, so that a file of coremlc's comes back byte for byte.
//!
//! ```
//! use anemone_mil::text;
//!
//! let source = r#"program(1.3)
//! {
//!     func main<ios18>(tensor<fp16, [1, 4]> x) {
//!             tensor<fp16, [1, 4]> y = mul(x = x, y = fp16(0x1p-1))[name = string("half")];
//!         } -> (y);
//! }"#;
//! let program = text::parse(source)?;
//! assert_eq!(program.functions[0].body.calls[0].op, "mul");
//! assert_eq!(text::print(&program), source);
//! # Ok::<(), anemone_mil::Error>(())
//! ```

mod dialect;
mod lex;
mod literal;
mod number;
mod parse;
mod parser;
mod print;

pub use parse::parse;
pub use print::print;
