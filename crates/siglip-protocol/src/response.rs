//! Replies to inference requests.

use crate::DataType;
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

/// The elements of an output, row-major.
#[derive(Clone, Copy, Debug)]
pub enum OutputData<'a> {
    /// FP32.
    Fp32(&'a [f32]),
    /// INT64.
    Int64(&'a [i64]),
}

impl OutputData<'_> {
    /// Their type.
    pub fn datatype(&self) -> DataType {
        match self {
            OutputData::Fp32(_) => DataType::Fp32,
            OutputData::Int64(_) => DataType::Int64,
        }
    }

    /// The number of bytes that they take in binary form.
    pub fn byte_size(&self) -> usize {
        match self {
            OutputData::Fp32(values) => values.len() * 4,
            OutputData::Int64(values) => values.len() * 8,
        }
    }

    /// Appends them in binary form: little-endian, one after the other.
    pub fn append_bytes(&self, out: &mut Vec<u8>) {
        match self {
            OutputData::Fp32(values) if cfg!(target_endian = "little") => {
                out.extend_from_slice(bytemuck::cast_slice(values));
            }
            OutputData::Int64(values) if cfg!(target_endian = "little") => {
                out.extend_from_slice(bytemuck::cast_slice(values));
            }
            OutputData::Fp32(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            OutputData::Int64(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        }
    }

    /// Appends them as JSON numbers with commas between them.
    fn append_json(&self, out: &mut Vec<u8>) {
        match self {
            OutputData::Fp32(values) => write_f32_list(out, values),
            OutputData::Int64(values) => {
                let mut buffer = itoa::Buffer::new();
                for (index, &value) in values.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(buffer.format(value).as_bytes());
                }
            }
        }
    }

    /// The `classes` largest of each row of `columns`, as `value:index`.
    pub(crate) fn classify(&self, columns: usize, classes: usize) -> Vec<String> {
        match self {
            OutputData::Fp32(values) => {
                classify(values, columns, classes, f32::total_cmp, |value| format!("{value:.6}"))
            }
            OutputData::Int64(values) => classify(values, columns, classes, i64::cmp, i64::to_string),
        }
    }
}

/// A reply with one output: what every model here has.
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
    /// Its dimensions, the batch's first.
    pub shape: &'a [usize],
    /// Its elements: as many as the dimensions say.
    pub data: OutputData<'a>,
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
    /// The elements of one row.
    pub(crate) fn columns(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// The number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    /// Writes the reply in the form that the request asked for; `default_form` is for a request that asked for no
    /// output in particular.
    pub fn encode(&self, requested: &[OutputRequest], default_form: OutputForm) -> Encoded {
        let request = requested.iter().find(|request| request.name == self.output);
        let form = request.map_or(default_form, |request| request.form);
        let classes = request.map_or(0, |request| request.classes);
        let in_shared_memory = request.is_some_and(|request| request.shared_memory.is_some());

        // Room for the whole reply, whichever form it takes, so that nothing is moved while it grows.
        let size = self.data.byte_size();
        let room = if form == OutputForm::Binary { size } else { size / 4 * 11 };
        let mut body = Vec::with_capacity(256 + room);
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
            write_head(&mut body, self.data.datatype(), self.shape);
            match form {
                _ if in_shared_memory => {}
                OutputForm::Json => {
                    body.extend_from_slice(b",\"data\":[");
                    self.data.append_json(&mut body);
                    body.push(b']');
                }
                OutputForm::Binary => {
                    write_binary_size(&mut body, size);
                }
            }
        }
        body.extend_from_slice(b"}]}");
        let header_length = (form == OutputForm::Binary && !in_shared_memory).then_some(body.len());
        if header_length.is_some() {
            match classes {
                0 => self.data.append_bytes(&mut body),
                _ => body.append(&mut classified),
            }
        }
        Encoded { body, header_length }
    }

    /// Writes the reply to a `generate` request: one flat object.
    pub fn encode_generate(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(256 + self.data.byte_size() / 4 * 11);
        body.push(b'{');
        write_string(&mut body, self.output);
        // A single value is no list.
        let list = self.shape.iter().product::<usize>() != 1;
        body.extend_from_slice(if list { b":[" } else { b":" });
        self.data.append_json(&mut body);
        if list {
            body.push(b']');
        }
        let fields = [("id", self.id), ("model_name", self.model), ("model_version", self.version)];
        for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
            body.push(b',');
            write_string(&mut body, name);
            body.push(b':');
            write_string(&mut body, value);
        }
        body.push(b'}');
        body
    }

    fn write_classes(&self, body: &mut Vec<u8>, binary: &mut Vec<u8>, classes: usize, form: OutputForm) {
        let columns = self.columns();
        let classes = classes.min(columns);
        let texts = self.data.classify(columns, classes);
        write_head(body, DataType::Bytes, &[self.rows(), classes]);
        match form {
            OutputForm::Json => {
                body.extend_from_slice(b",\"data\":[");
                for (index, text) in texts.iter().enumerate() {
                    if index > 0 {
                        body.push(b',');
                    }
                    write_string(body, text);
                }
                body.push(b']');
            }
            OutputForm::Binary => {
                *binary = bytes_tensor(&texts);
                write_binary_size(body, binary.len());
            }
        }
    }
}

fn write_head(body: &mut Vec<u8>, datatype: DataType, shape: &[usize]) {
    body.extend_from_slice(b",\"datatype\":\"");
    body.extend_from_slice(datatype.name().as_bytes());
    body.extend_from_slice(b"\",\"shape\":[");
    let mut buffer = itoa::Buffer::new();
    for (index, &dimension) in shape.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(buffer.format(dimension).as_bytes());
    }
    body.push(b']');
}

fn write_binary_size(body: &mut Vec<u8>, size: usize) {
    body.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
    body.extend_from_slice(itoa::Buffer::new().format(size).as_bytes());
    body.push(b'}');
}

/// The binary form of a BYTES tensor.
pub(crate) fn bytes_tensor(texts: &[String]) -> Vec<u8> {
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
        shape: &[2, 2],
        data: OutputData::Fp32(&VALUES),
    };
    const VALUES: [f32; 4] = [0.0, 1.5, 4.0, 3.0];

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
    fn integers() {
        let response =
            InferResponse { shape: &[1, 3], data: OutputData::Int64(&[7, -1, i64::MAX]), ..RESPONSE };
        let encoded = response.encode(&[], OutputForm::Json);
        let text = r#"{"model_name":"m","model_version":"1","outputs":[{"name":"O","datatype":"INT64","shape":[1,3],"data":[7,-1,9223372036854775807]}]}"#;
        assert_eq!(String::from_utf8(encoded.body).unwrap(), text);
        let encoded = response.encode(&asked(OutputForm::Binary, 0), OutputForm::Json);
        let bytes: Vec<u8> = [7, -1, i64::MAX].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(encoded.body.split_at(encoded.header_length.unwrap()).1, bytes);
        let encoded = response.encode(&asked(OutputForm::Json, 2), OutputForm::Json);
        assert!(String::from_utf8(encoded.body).unwrap().contains(r#"["9223372036854775807:2","7:0"]"#));
    }

    #[test]
    fn binary() {
        let encoded = RESPONSE.encode(&asked(OutputForm::Binary, 0), OutputForm::Json);
        let text = r#"{"model_name":"m","model_version":"1","outputs":[{"name":"O","datatype":"FP32","shape":[2,2],"parameters":{"binary_data_size":16}}]}"#;
        assert_eq!(encoded.header_length, Some(text.len()));
        let (header, data) = encoded.body.split_at(text.len());
        assert_eq!(header, text.as_bytes());
        let bytes: Vec<u8> = VALUES.iter().flat_map(|value| value.to_le_bytes()).collect();
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
