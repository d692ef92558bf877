//! CSV: rows of numbers, perhaps below the names of the columns.

use super::{Parse, Parsed};

pub(super) fn parse(bytes: &[u8], header: bool) -> Parse<Parsed> {
    let mut reader = csv::ReaderBuilder::new().has_headers(header).trim(csv::Trim::All).from_reader(bytes);
    let columns = match header {
        true => Some(reader.headers().map_err(|e| e.to_string())?.iter().map(str::to_string).collect()),
        false => None,
    };
    let (mut values, mut n_rows, mut n_columns) = (Vec::new(), 0, 0);
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|e| e.to_string())? {
        for (column, field) in record.iter().enumerate() {
            let value = field.parse().ok().filter(|x: &f32| x.is_finite()).ok_or_else(|| {
                let line = record.position().map_or(0, csv::Position::line);
                format!("line {line}, column {column}: `{field}`, expected a finite number")
            })?;
            values.push(value);
        }
        n_rows += 1;
        n_columns = record.len();
    }
    if n_rows == 0 {
        return Err("there are no rows".into());
    }
    Ok(Parsed { shape: vec![n_rows, n_columns], values, columns })
}
