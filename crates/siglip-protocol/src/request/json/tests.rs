use super::*;

fn parse(text: &str) -> Result<InferRequest, String> {
    let body = Bytes::copy_from_slice(text.as_bytes());
    InferRequest::from_body(&body, body.len(), "m").map_err(|error| error.to_string())
}

#[test]
fn everything_at_once() {
    let request = parse(
        r#"{"id":"r\u00e9","parameters":{"a":1,"b":true,"c":"x","d":1.5,"binary_data_output":true,"timeout":5},
            "ignored":{"inputs":[]},
            "inputs":[{"data":[[1,2],[3,4]],"shape":[2,2],"datatype":"INT64","name":"A","ignored":[1]},
                      {"name":"B","shape":[2],"datatype":"BYTES","data":["plain","es\"caped"]}],
            "outputs":[{"name":"O"},{"name":"P","parameters":{"binary_data":true,"classification":3}}]}"#,
    )
    .unwrap();
    assert_eq!(request.id, "r\u{e9}");
    assert_eq!(request.parameters.len(), 4);
    assert_eq!(request.parameter("b"), Some(&ParameterValue::Bool(true)));
    assert_eq!(request.default_form, OutputForm::Binary);
    assert_eq!(
        (request.inputs[0].shape.as_slice(), request.inputs[0].datatype),
        (&[2, 2][..], Some(DataType::Int64))
    );
    assert!(matches!(&request.inputs[0].data, TensorData::Int64(ids) if ids == &[1, 2, 3, 4]));
    assert!(
        matches!(&request.inputs[1].data, TensorData::Strings(texts) if texts == &["plain", "es\"caped"])
    );
    assert_eq!(request.outputs[0].form, OutputForm::Json);
    assert_eq!((request.outputs[1].form, request.outputs[1].classes), (OutputForm::Binary, 3));
}

#[test]
fn binary_tensors_follow_the_header_in_order() {
    let header = r#"{"inputs":[{"name":"A","shape":[1],"datatype":"INT64","parameters":{"binary_data_size":8}},
        {"name":"B","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}"#;
    let mut body = header.as_bytes().to_vec();
    body.extend_from_slice(b"01234567abcd");
    let request = InferRequest::from_body(&body.clone().into(), header.len(), "m").unwrap();
    assert!(matches!(&request.inputs[0].data, TensorData::Raw(bytes) if bytes == "01234567"));
    assert!(matches!(&request.inputs[1].data, TensorData::Raw(bytes) if bytes == "abcd"));

    let error =
        |body: Vec<u8>| InferRequest::from_body(&body.into(), header.len(), "m").unwrap_err().to_string();
    assert_eq!(
        error(body[..body.len() - 1].to_vec()),
        "unexpected size for input 'B', expecting 1 additional bytes for model 'm'"
    );
    body.push(0);
    assert_eq!(error(body), "unexpected additional input data for model 'm'");
}

#[test]
fn shapes_that_no_memory_holds() {
    let shape = |shape: &str, datatype: &str| {
        parse(&format!(
            r#"{{"inputs":[{{"name":"A","shape":{shape},"datatype":"{datatype}","data":[1,2]}}]}}"#
        ))
    };
    let many = "has too many elements";
    assert!(shape("[1000000000,64]", "INT64").unwrap_err().contains(many));
    assert!(shape("[9223372036854775807,64]", "FP32").unwrap_err().contains(many));
    assert!(shape("[18446744073709551615,2]", "BOOL").unwrap_err().contains(many));
    assert!(shape("[2147483647]", "INT64").unwrap_err().contains("Shape does not match"));
    assert!(shape("[0,9223372036854775807]", "INT64").is_ok());
}

#[test]
fn the_same_name_twice() {
    let input = r#"{"name":"A","shape":[1],"datatype":"INT64","data":[1]}"#;
    assert_eq!(
        parse(&format!(r#"{{"id":"i","inputs":[{input},{input}]}}"#)).unwrap_err(),
        "[request id: i] input 'A' already exists in request"
    );
}

/// With a search through the inputs before each one, this would take until somebody gives up.
#[test]
fn inputs_without_end() {
    let input = |index| format!(r#"{{"name":"{index}","shape":[0],"datatype":"FP32","data":[]}}"#);
    let inputs: Vec<String> = (0..200_000).map(input).collect();
    let request = parse(&format!(r#"{{"inputs":[{}]}}"#, inputs.join(","))).unwrap();
    assert_eq!(request.inputs.len(), 200_000);
    let error = parse(&format!(r#"{{"inputs":[{},{}]}}"#, inputs.join(","), inputs[0])).unwrap_err();
    assert_eq!(error, "[request id: <id_unknown>] input '0' already exists in request");
}
