//! Replies to inference requests.

use crate::classification::classify;
use crate::float::write_f32_list;
use crate::json::write_string;
use crate::request::OutputRequest;

/// The form in which an output goes out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputForm {
    /// As numbers in the JSON.
    #[default]
    Json,
    /// As little-endian bytes after the JSON.
    Binary,
}

/// A reply with one output of type FP32: what every model here has.
#[derive(Clone, Copy, Debug)]
pub struct InferResponse<'a> {
    /// The request's id; empty if it had none.
    pub id: &'a str,
    /// The model that answered.
    pub model: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The output's name.
    pub output: &'a str,
    /// Its dimensions: rows and columns.
    pub shape: [usize; 2],
    /// Its elements.
    pub data: &'a [f32],
}

/// A reply in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The body.
    pub body: Vec<u8>,
    /// The length of its JSON part, if binary tensors may follow.
    pub header_length: Option<usize>,
}

impl InferResponse<'_> {
    /// Writes the reply in the form that the request asked for; `default_form` is for a request that asked for no
    /// output in particular.
    pub fn encode(&self, requested: &[OutputRequest], default_form: OutputForm) -> Encoded {
        let request = requested.iter().find(|request| request.name == self.output);
        let form = request.map_or(default_form, |request| request.form);
        let classes = request.map_or(0, |request| request.classes);
        let in_shared_memory = request.is_some_and(|request| request.shared_memory.is_some());

        // Room for the whole reply, whichever form it takes, so that nothing is moved while it grows.
        let per_value = if form == OutputForm::Binary { 4 } else { 11 };
        let mut body = Vec::with_capacity(256 + self.data.len() * per_value);
        let mut classified = Vec::new();
        body.push(b'{');
        if !self.id.is_empty() {
            body.extend_from_slice(b"\"id\":");
            write_string(&mut body, self.id);
            body.push(b',');
        }
        body.extend_from_slice(b"\"model_name\":");
        write_string(&mut body, self.model);
        body.extend_from_slice(b",\"model_version\":");
        write_string(&mut body, self.version);
        body.extend_from_slice(b",\"outputs\":[{\"name\":");
        write_string(&mut body, self.output);
        if classes > 0 {
            self.write_classes(&mut body, &mut classified, classes, form);
        } else {
            self.write_head(&mut body, "FP32", self.shape);
            match form {
                _ if in_shared_memory => {}
                OutputForm::Json => {
                    body.extend_from_slice(b",\"data\":[");
                    write_f32_list(&mut body, self.data);
                    body.push(b']');
                }
                OutputForm::Binary => {
                    write_binary_size(&mut body, self.data.len() * 4);
                }
            }
        }
        body.extend_from_slice(b"}]}");
        let header_length = (form == OutputForm::Binary && !in_shared_memory).then_some(body.len());
        if header_length.is_some() {
            match classes {
                0 => append_f32_bytes(&mut body, self.data),
                _ => body.append(&mut classified),
            }
        }
        Encoded { body, header_length }
    }

    fn write_head(&self, body: &mut Vec<u8>, datatype: &str, shape: [usize; 2]) {
        body.extend_from_slice(b",\"datatype\":\"");
        body.extend_from_slice(datatype.as_bytes());
        body.extend_from_slice(b"\",\"shape\":[");
        let mut buffer = itoa::Buffer::new();
        body.extend_from_slice(buffer.format(shape[0]).as_bytes());
        body.push(b',');
        body.extend_from_slice(buffer.format(shape[1]).as_bytes());
        body.push(b']');
    }

    fn write_classes(&self, body: &mut Vec<u8>, binary: &mut Vec<u8>, classes: usize, form: OutputForm) {
        let [rows, columns] = self.shape;
        let classes = classes.min(columns);
        let texts = self.data.chunks_exact(columns.max(1)).flat_map(|row| classify(row, classes));
        self.write_head(body, "BYTES", [rows, classes]);
        match form {
            OutputForm::Json => {
                body.extend_from_slice(b",\"data\":[");
                for (index, text) in texts.enumerate() {
                    if index > 0 {
                        body.push(b',');
                    }
                    write_string(body, &text);
                }
                body.push(b']');
            }
            OutputForm::Binary => {
                *binary = bytes_tensor(texts);
                write_binary_size(body, binary.len());
            }
        }
    }
}

fn write_binary_size(body: &mut Vec<u8>, size: usize) {
    body.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
    body.extend_from_slice(itoa::Buffer::new().format(size).as_bytes());
    body.push(b'}');
}

/// The little-endian bytes of `values`.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * 4);
    append_f32_bytes(&mut bytes, values);
    bytes
}

/// Appends the little-endian bytes of `values`.
pub(crate) fn append_f32_bytes(out: &mut Vec<u8>, values: &[f32]) {
    if cfg!(target_endian = "little") {
        out.extend_from_slice(bytemuck::cast_slice(values));
    } else {
        values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    }
}

/// The binary form of a BYTES tensor.
pub(crate) fn bytes_tensor(texts: impl Iterator<Item = String>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in texts {
        // These texts are two numbers long.
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// The body of an error reply.
pub fn error_body(message: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(message.len() + 16);
    body.extend_from_slice(b"{\"error\":");
    write_string(&mut body, message);
    body.push(b'}');
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: InferResponse<'static> = InferResponse {
        id: "",
        model: "m",
        version: "1",
        output: "O",
        shape: [2, 2],
        data: &[0.0, 1.5, 4.0, 3.0],
    };

    fn asked(form: OutputForm, classes: usize) -> [OutputRequest; 1] {
        [OutputRequest { name: "O".to_owned(), form, classes, shared_memory: None }]
    }

    #[test]
    fn json() {
        let encoded = InferResponse { id: "a\"b", ..RESPONSE }.encode(&[], OutputForm::Json);
        let text = r#"{"id":"a\"b","model_name":"m","model_version":"1","outputs":[{"name":"O","datatype":"FP32","shape":[2,2],"data":[0.0,1.5,4.0,3.0]}]}"#;
        assert_eq!(String::from_utf8(encoded.body).unwrap(), text);
        assert_eq!(encoded.header_length, None);
    }

    #[test]
    fn binary() {
        let encoded = RESPONSE.encode(&asked(OutputForm::Binary, 0), OutputForm::Json);
        let text = r#"{"model_name":"m","model_version":"1","outputs":[{"name":"O","datatype":"FP32","shape":[2,2],"parameters":{"binary_data_size":16}}]}"#;
        assert_eq!(encoded.header_length, Some(text.len()));
        let (header, data) = encoded.body.split_at(text.len());
        assert_eq!(header, text.as_bytes());
        let bytes: Vec<u8> = RESPONSE.data.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(data, bytes);
    }

    #[test]
    fn classes() {
        let encoded = RESPONSE.encode(&asked(OutputForm::Json, 1), OutputForm::Json);
        let text = r#"{"model_name":"m","model_version":"1","outputs":[{"name":"O","datatype":"BYTES","shape":[2,1],"data":["1.500000:1","4.000000:0"]}]}"#;
        assert_eq!(String::from_utf8(encoded.body).unwrap(), text);
        let encoded = RESPONSE.encode(&asked(OutputForm::Binary, 1), OutputForm::Json);
        assert!(encoded.body.ends_with(b"}\x0a\0\0\x001.500000:1\x0a\0\0\x004.000000:0"));
    }
}
