#![expect(clippy::needless_pass_by_value, reason = "what is made in the call is taken whole")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn of(body: &Value) -> Anatomy {
    Anatomy::of(body.to_string().as_bytes()).unwrap()
}

/// `kind name path`, bytes and count of each part.
fn parts(anatomy: &Anatomy) -> Vec<(String, u64, u64)> {
    let name = |part: &Part| {
        let kind = serde_json::to_value(part.kind).unwrap();
        [kind.as_str().unwrap(), &part.name, part.path.as_deref().unwrap_or("")].join(" ").trim().to_owned()
    };
    anatomy.parts.iter().map(|part| (name(part), part.bytes, part.count)).collect()
}

fn part(name: &str, bytes: u64, count: u64) -> (String, u64, u64) {
    (name.to_owned(), bytes, count)
}

fn user(blocks: Value) -> Value {
    json!({"role": "user", "content": blocks})
}

fn call(id: &str, tool: &str, input: Value) -> Value {
    json!({"role": "assistant", "content": [{"type": "tool_use", "id": id, "name": tool, "input": input}]})
}

fn result(id: &str, content: Value) -> Value {
    user(json!([{"type": "tool_result", "tool_use_id": id, "content": content}]))
}

fn text(text: impl Into<String>) -> Value {
    json!({"type": "text", "text": text.into()})
}

#[test]
fn results_belong_to_their_tool_and_file() {
    let anatomy = of(&json!({"model": "m", "messages": [
        user(json!("do it")),
        call("a", "Read", json!({"file_path": "/p/x"})),
        result("a", json!("12345")),
        call("b", "Read", json!({"file_path": "/p/x", "limit": 5})),
        result("b", json!([text("123"), text("45")])),
        call("c", "Bash", json!({"command": "ls"})),
        result("c", json!("1234567")),
        result("gone", json!("1")),
    ]}));
    assert_eq!(
        parts(&anatomy),
        [
            part("user", 5, 1),
            part("tool_call Bash", 16, 1),
            part("tool_call Read /p/x", 20 + 30, 2),
            part("tool_result (unknown tool)", 1, 1),
            part("tool_result Bash", 7, 1),
            part("tool_result Read /p/x", 10, 2),
        ]
    );
}

#[test]
fn escapes_are_not_text() {
    let anatomy = of(&json!({"messages": [user(json!("a\n\"b\""))]}));
    assert_eq!(parts(&anatomy), [part("user", 5, 1)]);
}

#[test]
fn definitions_are_summed_by_server_and_know_their_calls() {
    let tool = |name: &str| json!({"name": name, "input_schema": {}});
    let length = |name: &str| tool(name).to_string().len() as u64;
    let anatomy = of(&json!({
        "tools": [tool("Bash"), tool("Read"), tool("mcp__shop__find"), tool("mcp__shop__sell"), tool("mcp__wiki__read"), {"name": "mcp__odd"}],
        "messages": [call("a", "mcp__shop__find", json!({})), call("b", "mcp__shop__find", json!({}))],
    }));
    let definitions: Vec<_> = anatomy.parts.iter().filter(|part| matches!(part.kind, Kind::Tools | Kind::Mcp)).collect();
    let told: Vec<_> = definitions.iter().map(|part| (part.name.as_str(), part.bytes, part.count, part.calls)).collect();
    assert_eq!(
        told,
        [
            ("", length("Bash") + length("Read"), 2, 0),
            ("odd", 19, 1, 0),
            ("shop", length("mcp__shop__find") + length("mcp__shop__sell"), 2, 2),
            ("wiki", length("mcp__wiki__read"), 1, 0),
        ]
    );
}

#[test]
fn a_deferred_tool_counts_once_it_is_loaded() {
    let body = |loaded: Value| {
        json!({"tools": [{"name": "mcp__shop__a", "defer_loading": true}, {"name": "mcp__shop__b", "defer_loading": true}],
               "messages": [call("s", "ToolSearch", json!({"query": "x"})), result("s", loaded)]})
    };
    let mcp = |anatomy: &Anatomy| anatomy.parts.iter().filter(|part| part.kind == Kind::Mcp).map(|part| part.count).sum::<u64>();
    assert_eq!(mcp(&of(&body(json!("nothing")))), 0);
    assert_eq!(mcp(&of(&body(json!([{"type": "tool_reference", "tool_name": "mcp__shop__a"}])))), 1);
}

#[test]
fn memory_files_are_told_apart_in_the_form_of_either_version() {
    let first = "# Rules\nBe kind. ";
    let new = format!(
        "<system-reminder>\nCodebase and user instructions are shown below. Be sure.\n\nContents of /p/CLAUDE.md (project instructions, checked in):\n\n{first}\n\nContents of /h/.claude/CLAUDE.md (user's private):\n\nx\n</system-reminder>"
    );
    let old = format!(
        "<system-reminder>\nAs you answer:\n# claudeMd\nCodebase and user instructions are shown below. Be sure.\n\nContents of /p/CLAUDE.md (project instructions):\n\n{first}\n# currentDate\nToday's date is 2026-11-24.\n</system-reminder>\n\n"
    );
    let names =
        |anatomy: &Anatomy| anatomy.parts.iter().filter(|part| part.kind == Kind::Memory).map(|part| part.name.clone()).collect::<Vec<_>>();
    for (reminder, files) in [(&new, &["/h/.claude/CLAUDE.md", "/p/CLAUDE.md"][..]), (&old, &["/p/CLAUDE.md"])] {
        let anatomy = of(&json!({"messages": [user(json!([text(reminder.clone()), text("do it")]))]}));
        assert_eq!(names(&anatomy), files);
        assert_eq!(anatomy.parts.iter().map(|part| part.bytes).sum::<u64>(), reminder.len() as u64 + 5);
        assert_eq!(anatomy.parts.iter().filter(|part| part.kind == Kind::User).map(|part| part.bytes).collect::<Vec<_>>(), [5]);
    }
}

#[test]
fn a_file_named_by_the_user_is_a_read_one_in_either_form() {
    let call = r#"Called the Read tool with the following input: {"file_path":"/p/x.rs"}"#;
    let lines = "1\tlet a = \"\\n\";\n2\t\n10\tend\n";
    let two = json!([
        text(format!("<system-reminder>\n{call}\n</system-reminder>")),
        text(format!("<system-reminder>\nResult of calling the Read tool:\n{lines}</system-reminder>"))
    ]);
    let one = json!([{"role": "system", "content": format!("{call}\nResult of calling the Read tool:\n{lines}\nAvailable agent types:\n- claude")}]);
    for messages in [json!([user(two)]), one] {
        let anatomy = of(&json!({"messages": messages}));
        let read = anatomy.parts.iter().find(|part| part.kind == Kind::ToolResult).unwrap();
        assert_eq!(
            (read.name.as_str(), read.path.as_deref(), read.bytes, read.count),
            ("Read", Some("/p/x.rs"), lines.len() as u64 - 1, 1)
        );
        assert_eq!(anatomy.parts.iter().map(|part| part.kind).collect::<Vec<_>>(), [Kind::System, Kind::ToolResult]);
    }
}

#[test]
fn images_count_by_their_pixels_and_not_by_their_base64() {
    let image = |data: String| json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}});
    // The head of a PNG of 600 x 300 pixels.
    let png = "iVBORw0KGgoAAAANSUhEUgAAAlgAAAEsCAIAAAC".to_owned() + &"A".repeat(10_000);
    let anatomy = of(&json!({"messages": [
        call("a", "Read", json!({"file_path": "/p/pic.png"})), result("a", json!([image(png)])),
        user(json!([image("/9j/".repeat(500)), {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A".repeat(100_000)}}])),
    ]}));
    let images: Vec<_> = anatomy.parts.iter().filter(|part| part.kind == Kind::Image).collect();
    let told: Vec<_> = images.iter().map(|part| (part.path.as_deref(), part.bytes, part.fixed_tokens, part.count)).collect();
    assert_eq!(told, [(None, 0, 1_600 + 2 * 2_000, 2), (Some("/p/pic.png"), 0, 240, 1)]);
    // 5,840 tokens are those of pictures; what remains goes to the text.
    let tokens = anatomy.tokens(6_000);
    assert_eq!(tokens.iter().sum::<u64>(), 6_000);
    assert_eq!(anatomy.tokens(5_840).iter().sum::<u64>(), 5_840);
}

#[test]
fn what_is_no_request_is_unknown() {
    for body in ["", "{", "[]", "null", r#"{"messages":{}}"#, r#"{"messages":[}"#, r#"{"model":"m"}"#, r#"{"messages":[],"messages":[]}"#] {
        assert!(Anatomy::of(body.as_bytes()).is_err(), "{body}");
    }
}

#[test]
fn calls_from_before_a_compaction_still_count() {
    let tools = json!([{"name": "mcp__shop__find"}]);
    let before = of(&json!({"tools": tools, "messages": [call("a", "mcp__shop__find", json!({}))]}));
    let after = of(&json!({"tools": tools, "messages": [user(json!("go on"))]})).after(&before);
    assert_eq!(after.parts.iter().find(|part| part.kind == Kind::Mcp).unwrap().calls, 1);
}

#[test]
fn names_of_the_clients_making_do_not_grow_without_bound() {
    let calls: Vec<Value> =
        (0..5_000).map(|n| call(&n.to_string(), "Read", json!({"file_path": format!("/{n}/{}", "é".repeat(1_000))}))).collect();
    let anatomy = of(&json!({"messages": calls}));
    assert!(anatomy.parts.len() <= MAX_PARTS + 1, "{}", anatomy.parts.len());
    assert!(anatomy.parts.iter().all(|part| part.path.as_ref().is_none_or(|path| path.len() <= MAX_NAME + 3)));
    assert_eq!(anatomy.parts.iter().map(|part| part.count).sum::<u64>(), 5_000);
}

/// What each of these takes must grow with its length, not with the square of it: at a megabyte a square is minutes.
#[test]
fn bodies_made_to_take_long_do_not() {
    let many = |piece: &str| piece.repeat(1_000_000 / piece.len());
    for piece in [
        "Called the Read tool with the following input: ",
        "Called the Read tool with the following input: {\"file_path\":\"",
        "Result of calling the Read tool:\n1\t",
        "\n\nContents of ",
        "1\t\n",
        "\\n",
        "\\",
    ] {
        for start in ["<system-reminder>", "<system-reminder>Codebase and user instructions are shown below."] {
            let anatomy = of(&json!({"messages": [user(json!([text(format!("{start}{}", many(piece)))]))]}));
            assert!(!anatomy.parts.is_empty());
        }
    }
    let deep = format!(r#"{{"messages":[{{"role":"user","content":{}1{}}}]}}"#, "[".repeat(400), "]".repeat(400));
    assert_eq!(parts(&Anatomy::of(deep.as_bytes()).unwrap()), [part("user other", 799, 1)]);
}

/// A block of a user's message and the bytes that it must be counted with.
fn any_block() -> impl Strategy<Value = (Value, u64)> {
    let word = "[a-zé ]{0,40}";
    prop_oneof![
        word.prop_map(|word| (text(word.clone()), word.len() as u64)),
        (word, "[a-c]").prop_map(|(word, id)| (json!({"type": "tool_result", "tool_use_id": id, "content": word}), word.len() as u64)),
        prop::collection::vec(word, 0..3).prop_map(|words| {
            let content: Vec<Value> = words.iter().map(text).collect();
            (json!({"type": "tool_result", "tool_use_id": "a", "content": content}), words.iter().map(|word| word.len() as u64).sum())
        }),
        (word, any::<i32>()).prop_map(|(word, number)| {
            let block = json!({"type": format!("x{word}"), "n": number});
            let bytes = block.to_string().len() as u64;
            (block, bytes)
        }),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        r#"[a-z"\\\né<]{0,12}|text|tool_use|tool_result|image|document|base64|user|system|assistant|mcp__a__b|Read|<system-reminder>"#
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        let key = "type|text|content|messages|role|tools|system|name|id|tool_use_id|input|source|data|file_path|thinking|defer_loading|[a-z]{1,3}";
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(key, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Every byte of content is counted once, whatever the blocks are.
    #[test]
    fn the_parts_sum_up_to_the_content(messages in prop::collection::vec((prop::sample::select(vec!["user", "system"]), prop::collection::vec(any_block(), 0..5)), 0..6)) {
        let expected: u64 = messages.iter().flat_map(|(_, blocks)| blocks).map(|(_, bytes)| *bytes).sum();
        let messages: Vec<Value> = messages.iter()
            .map(|(role, blocks)| json!({"role": role, "content": blocks.iter().map(|(block, _)| block).collect::<Vec<_>>()}))
            .collect();
        let body = json!({"model": "m", "messages": messages});
        let anatomy = of(&body);
        prop_assert_eq!(anatomy.parts.iter().map(|part| part.bytes).sum::<u64>(), expected);
        prop_assert_eq!(anatomy.body_bytes, body.to_string().len() as u64);
    }

    /// Whatever the JSON: no panic, never more than the body has, and the tokens shared out are the prompt's.
    #[test]
    fn any_json_is_taken_apart_or_unknown(messages in any_json(), tools in any_json(), system in any_json(), prompt in 0..10_000_000_u64) {
        let body = json!({"messages": messages, "tools": tools, "system": system}).to_string();
        let Ok(anatomy) = Anatomy::of(body.as_bytes()) else {
            prop_assert!(!messages.is_array());
            return Ok(());
        };
        let bytes: u64 = anatomy.parts.iter().map(|part| part.bytes).sum();
        prop_assert!(bytes <= body.len() as u64, "{} > {}", bytes, body.len());
        let tokens = anatomy.tokens(prompt);
        let expected = if anatomy.parts.iter().all(|part| part.bytes == 0 && part.fixed_tokens == 0) && anatomy.parts.is_empty() { 0 } else { prompt };
        prop_assert_eq!(tokens.iter().sum::<u64>(), expected);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0..300_usize) {
        let _ = Anatomy::of(&bytes);
        let body = json!({"messages": [user(json!([text("<system-reminder>Called the Read tool with the following input: {\"file_path\":\"/p\"}\nResult of calling the Read tool:\n1\tx")]))]}).to_string();
        let _ = Anatomy::of(&body.as_bytes()[..cut.min(body.len())]);
    }
}
