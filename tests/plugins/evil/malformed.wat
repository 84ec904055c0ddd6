;; A hostile guest as no compiler of Rust would make one. tests/tests/promises/evil/malformed.rs makes a core module of it.
;;
;; The payload of an event chooses the attack: "a" (a text in JSON) is attack a, an object is harmless and adds a row to
;; `survivors`. What is no matter of an event stands in comments of one word, in whose place a test puts it.
(module
  (import "projectionist:projection/transactions@0.1.0" "[method]transaction.execute"
    (func $execute (param $tx i32) (param $sql i32) (param i32) (param $list i32) (param i32) (param $answer i32)))
  (import "projectionist:projection/transactions@0.1.0" "[method]transaction.query"
    (func $query (param i32 i32 i32 i32 i32 i32)))
  (import "projectionist:projection/transactions@0.1.0" "[method]transaction.dialect"
    (func $dialect (param i32) (result i32)))
  (import "projectionist:projection/transactions@0.1.0" "[resource-drop]transaction" (func $drop (param i32)))
  (import "projectionist:projection/log@0.1.0" "log" (func $log (param i32 i32 i32)))
  (import "projectionist:projection/config@0.1.0" "get" (func $get (param i32 i32 i32)))

  (memory (export "memory") 16)
  ;; 0: an answer; 64: an answer of the host; 128: the descriptor; 256: its name; 512 on: statements; 4096: not UTF-8.
  (data (i32.const 128) "\00\01\00\00" "\04\00\00\00" "\01\00\00\00" "\00\00\00\00" "\00\00\00\00"
                        "\00\00\00\00" "\00\00\00\00" "\00\00\00\00" "\00\00\00\00")
  (data (i32.const 256) "evil")
  (data (i32.const 512) "CREATE TABLE survivors (position BIGINT PRIMARY KEY, note TEXT NOT NULL)")
  (data (i32.const 768) "INSERT INTO survivors SELECT count(*), 'harmless' FROM survivors")
  (data (i32.const 1024) "DELETE FROM survivors")
  (data (i32.const 4096) "not \ff\fe UTF-8 \c0\80")
  (global $free (mut i32) (i32.const 8192))
  (global $kept (mut i32) (i32.const 0))
  (global $spins_after (mut i32) (i32.const 0))
  (table $functions 1 funcref)

  (; start ;)

  ;; Memory for what the host passes in: taken up again when the call is done.
  (func $realloc (export "cabi_realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32) (result i32)
    (local $at i32)
    (; realloc ;)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get $new)))
    (local.get $at))

  (func (export "describe") (result i32)
    (; describe ;)
    (i32.const 128))

  (func (export "migrate") (param $tx i32) (param $from i32) (result i32)
    (call $run (local.get $tx) (i32.const 512) (i32.const 72))
    (call $drop (local.get $tx))
    (call $well))

  (func (export "flush") (param $tx i32) (result i32)
    (call $drop (local.get $tx))
    (if (global.get $kept) (then (call $run (global.get $kept) (i32.const 1024) (i32.const 21))))
    (call $well))

  (func (export "cabi_post_handle") (param $answer i32)
    (if (global.get $spins_after) (then (loop $ever (br $ever)))))

  ;; Runs a statement without parameters.
  (func $run (param $tx i32) (param $sql i32) (param $length i32)
    (call $execute (local.get $tx) (local.get $sql) (local.get $length) (i32.const 0) (i32.const 0) (i32.const 64)))

  ;; That all is well.
  (func $well (result i32)
    (i64.store (i32.const 0) (i64.const 0))
    (i32.const 0))

  ;; A permanent failure with this text.
  (func $failure (param $text i32) (param $length i32) (result i32)
    (i32.store (i32.const 0) (i32.const 1))
    (i32.store (i32.const 4) (i32.const 1))
    (i32.store (i32.const 8) (local.get $text))
    (i32.store (i32.const 12) (local.get $length))
    (i32.const 0))

  ;; The parameters: the transaction, then the event from 8 on, whose payload is 60 bytes in.
  (func (export "handle") (param $event i32) (result i32)
    (local $tx i32) (local $attack i32)
    (global.set $free (i32.const 8192))
    (local.set $tx (i32.load (local.get $event)))
    (local.set $attack (i32.load8_u offset=1 (i32.load offset=68 (local.get $event))))
    (if (i32.eq (i32.load8_u (i32.load offset=68 (local.get $event))) (i32.const 0x7b)) ;; {
      (then
        (call $run (local.get $tx) (i32.const 768) (i32.const 64))
        (call $drop (local.get $tx))
        (return (call $well))))

    ;; Answers.
    (if (i32.eq (local.get $attack) (i32.const 0x61)) ;; a: neither a result nor an error
      (then (call $drop (local.get $tx)) (i32.store (i32.const 0) (i32.const 7)) (return (i32.const 0))))
    (if (i32.eq (local.get $attack) (i32.const 0x62)) ;; b: an unknown failure
      (then (call $drop (local.get $tx)) (i32.store (i32.const 0) (i32.const 1)) (i32.store (i32.const 4) (i32.const 9))
        (return (i32.const 0))))
    (if (i32.eq (local.get $attack) (i32.const 0x63)) ;; c: a text outside of its memory
      (then (call $drop (local.get $tx)) (return (call $failure (i32.const -16) (i32.const 8)))))
    (if (i32.eq (local.get $attack) (i32.const 0x64)) ;; d: a text longer than any memory
      (then (call $drop (local.get $tx)) (return (call $failure (i32.const 256) (i32.const -1)))))
    (if (i32.eq (local.get $attack) (i32.const 0x65)) ;; e: a text that is none
      (then (call $drop (local.get $tx)) (return (call $failure (i32.const 4096) (i32.const 14)))))
    (if (i32.eq (local.get $attack) (i32.const 0x66)) ;; f: an answer outside of its memory
      (then (call $drop (local.get $tx)) (return (i32.const -16))))
    (if (i32.eq (local.get $attack) (i32.const 0x67)) ;; g: an answer where none may stand
      (then (call $drop (local.get $tx)) (return (i32.const 1))))
    (if (i32.eq (local.get $attack) (i32.const 0x68)) ;; h: it never comes back from giving its answer away
      (then (call $drop (local.get $tx)) (global.set $spins_after (i32.const 1)) (return (call $well))))
    (if (i32.eq (local.get $attack) (i32.const 0x69)) ;; i: a text as long as its memory
      (then (call $drop (local.get $tx))
        (memory.fill (i32.const 16384) (i32.const 0x78) (i32.const 1000000))
        (return (call $failure (i32.const 16384) (i32.const 1000000)))))

    ;; Arguments.
    (if (i32.eq (local.get $attack) (i32.const 0x6a)) ;; j: a statement outside of its memory
      (then (call $run (local.get $tx) (i32.const -16) (i32.const 8))))
    (if (i32.eq (local.get $attack) (i32.const 0x6b)) ;; k: a statement that is no text
      (then (call $run (local.get $tx) (i32.const 4096) (i32.const 14))))
    (if (i32.eq (local.get $attack) (i32.const 0x6c)) ;; l: parameters outside of its memory
      (then (call $execute (local.get $tx) (i32.const 1024) (i32.const 21) (i32.const -24) (i32.const 1) (i32.const 64))))
    (if (i32.eq (local.get $attack) (i32.const 0x6d)) ;; m: so many that their size is no number of 32 bits
      (then (call $execute (local.get $tx) (i32.const 1024) (i32.const 21) (i32.const 8192) (i32.const 0x10000001) (i32.const 64))))
    (if (i32.eq (local.get $attack) (i32.const 0x6e)) ;; n: a parameter of no type
      (then (i32.store (i32.const 16384) (i32.const 200))
        (call $execute (local.get $tx) (i32.const 1024) (i32.const 21) (i32.const 16384) (i32.const 1) (i32.const 64))))
    (if (i32.eq (local.get $attack) (i32.const 0x6f)) ;; o: parameters where none may stand
      (then (call $execute (local.get $tx) (i32.const 1024) (i32.const 21) (i32.const 16385) (i32.const 1) (i32.const 64))))
    (if (i32.eq (local.get $attack) (i32.const 0x70)) ;; p: room for the answer outside of its memory
      (then (call $execute (local.get $tx) (i32.const 1024) (i32.const 21) (i32.const 0) (i32.const 0) (i32.const -8))))
    (if (i32.eq (local.get $attack) (i32.const 0x71)) ;; q: a log line of no level
      (then (call $log (i32.const 77) (i32.const 256) (i32.const 4))))
    (if (i32.eq (local.get $attack) (i32.const 0x72)) ;; r: a log line that is no text
      (then (call $log (i32.const 2) (i32.const 4096) (i32.const 14))))
    (if (i32.eq (local.get $attack) (i32.const 0x73)) ;; s: a setting outside of its memory
      (then (call $get (i32.const -4) (i32.const 4) (i32.const 64))))

    ;; Handles.
    (if (i32.eq (local.get $attack) (i32.const 0x74)) ;; t: it keeps the transaction
      (then (return (call $well))))
    (if (i32.eq (local.get $attack) (i32.const 0x75)) ;; u: it gives it back, and goes on
      (then (call $drop (local.get $tx)) (call $run (local.get $tx) (i32.const 1024) (i32.const 21))))
    (if (i32.eq (local.get $attack) (i32.const 0x42)) ;; B: it gives it back, and keeps its number for the next call
      (then (global.set $kept (local.get $tx)) (call $drop (local.get $tx)) (return (call $well))))
    (if (i32.eq (local.get $attack) (i32.const 0x76)) ;; v: it gives it back twice
      (then (call $drop (local.get $tx)) (call $drop (local.get $tx))))
    (if (i32.eq (local.get $attack) (i32.const 0x77)) ;; w: a number it was never given
      (then (call $run (i32.const 77777) (i32.const 1024) (i32.const 21))))
    (if (i32.eq (local.get $attack) (i32.const 0x78)) ;; x: the number 0
      (then (call $run (i32.const 0) (i32.const 1024) (i32.const 21))))
    (if (i32.eq (local.get $attack) (i32.const 0x79)) ;; y: the largest number
      (then (drop (call $dialect (i32.const -1)))))
    (if (i32.eq (local.get $attack) (i32.const 0x7a)) ;; z: it gives back what it was never given
      (then (call $drop (i32.const 2))))

    ;; Grows its table as far as that goes, and goes on when it is refused.
    (if (i32.eq (local.get $attack) (i32.const 0x41)) ;; A
      (then (loop $more (br_if $more (i32.ne (table.grow $functions (ref.null func) (i32.const 1000)) (i32.const -1))))
        (unreachable)))
    (call $drop (local.get $tx))
    (call $well))
)
