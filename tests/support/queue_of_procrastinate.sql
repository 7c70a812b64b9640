-- A server as the version before the queue's own tables left it: nine samples submitted, a worker killed with a request in flight.
-- Made by `pg_dump --inserts`; of procrastinate's functions only those of its triggers are kept.
CREATE SCHEMA batchgen;
CREATE SCHEMA batchgen_job_job_fe45cd8f;
CREATE SCHEMA batchgen_queue;
CREATE TYPE batchgen_queue.procrastinate_job_event_type AS ENUM (
    'deferred',
    'started',
    'deferred_for_retry',
    'failed',
    'succeeded',
    'cancelled',
    'abort_requested',
    'aborted',
    'scheduled',
    'retried'
);
CREATE TYPE batchgen_queue.procrastinate_job_status AS ENUM (
    'todo',
    'doing',
    'succeeded',
    'failed',
    'cancelled',
    'aborting',
    'aborted'
);
CREATE TYPE batchgen_queue.procrastinate_job_to_defer_v1 AS (
	queue_name character varying,
	task_name character varying,
	priority integer,
	lock text,
	queueing_lock text,
	args jsonb,
	scheduled_at timestamp with time zone
);
CREATE FUNCTION batchgen_job_job_fe45cd8f.instr(text, text) RETURNS integer
    LANGUAGE sql IMMUTABLE
    AS $_$SELECT strpos($1, $2)$_$;
CREATE TABLE batchgen_queue.procrastinate_jobs (
    id bigint NOT NULL,
    queue_name character varying(128) NOT NULL,
    task_name character varying(128) NOT NULL,
    priority integer DEFAULT 0 NOT NULL,
    lock text,
    queueing_lock text,
    args jsonb DEFAULT '{}'::jsonb NOT NULL,
    status batchgen_queue.procrastinate_job_status DEFAULT 'todo'::batchgen_queue.procrastinate_job_status NOT NULL,
    scheduled_at timestamp with time zone,
    attempts integer DEFAULT 0 NOT NULL,
    abort_requested boolean DEFAULT false NOT NULL,
    worker_id bigint,
    CONSTRAINT check_not_todo_abort_requested CHECK ((NOT ((status = 'todo'::batchgen_queue.procrastinate_job_status) AND (abort_requested = true))))
);
CREATE FUNCTION batchgen_queue.procrastinate_notify_queue_abort_job_v1() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    payload TEXT;
BEGIN
    SELECT json_build_object('type', 'abort_job_requested', 'job_id', NEW.id)::text INTO payload;
	PERFORM pg_notify('procrastinate_queue_v1#' || NEW.queue_name, payload);
	PERFORM pg_notify('procrastinate_any_queue_v1', payload);
	RETURN NEW;
END;
$$;
CREATE FUNCTION batchgen_queue.procrastinate_notify_queue_job_inserted_v1() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    payload TEXT;
BEGIN
    SELECT json_build_object('type', 'job_inserted', 'job_id', NEW.id)::text INTO payload;
	PERFORM pg_notify('procrastinate_queue_v1#' || NEW.queue_name, payload);
	PERFORM pg_notify('procrastinate_any_queue_v1', payload);
	RETURN NEW;
END;
$$;
CREATE FUNCTION batchgen_queue.procrastinate_trigger_abort_requested_events_procedure_v1() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO procrastinate_events(job_id, type)
        VALUES (NEW.id, 'abort_requested'::procrastinate_job_event_type);
    RETURN NEW;
END;
$$;
CREATE FUNCTION batchgen_queue.procrastinate_trigger_function_scheduled_events_v1() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO procrastinate_events(job_id, type, at)
        VALUES (NEW.id, 'scheduled'::procrastinate_job_event_type, NEW.scheduled_at);
	RETURN NEW;
END;
$$;
CREATE FUNCTION batchgen_queue.procrastinate_trigger_function_status_events_insert_v1() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO procrastinate_events(job_id, type)
        VALUES (NEW.id, 'deferred'::procrastinate_job_event_type);
	RETURN NEW;
END;
$$;
CREATE FUNCTION batchgen_queue.procrastinate_trigger_function_status_events_update_v1() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    WITH t AS (
        SELECT CASE
            WHEN OLD.status = 'todo'::procrastinate_job_status
                AND NEW.status = 'doing'::procrastinate_job_status
                THEN 'started'::procrastinate_job_event_type
            WHEN OLD.status = 'doing'::procrastinate_job_status
                AND NEW.status = 'todo'::procrastinate_job_status
                THEN 'deferred_for_retry'::procrastinate_job_event_type
            WHEN OLD.status = 'doing'::procrastinate_job_status
                AND NEW.status = 'failed'::procrastinate_job_status
                THEN 'failed'::procrastinate_job_event_type
            WHEN OLD.status = 'doing'::procrastinate_job_status
                AND NEW.status = 'succeeded'::procrastinate_job_status
                THEN 'succeeded'::procrastinate_job_event_type
            WHEN OLD.status = 'todo'::procrastinate_job_status
                AND (
                    NEW.status = 'cancelled'::procrastinate_job_status
                    OR NEW.status = 'failed'::procrastinate_job_status
                    OR NEW.status = 'succeeded'::procrastinate_job_status
                )
                THEN 'cancelled'::procrastinate_job_event_type
            WHEN OLD.status = 'doing'::procrastinate_job_status
                AND NEW.status = 'aborted'::procrastinate_job_status
                THEN 'aborted'::procrastinate_job_event_type
            WHEN OLD.status = 'failed'::procrastinate_job_status
                AND NEW.status = 'todo'::procrastinate_job_status
                THEN 'retried'::procrastinate_job_event_type
            ELSE NULL
        END as event_type
    )
    INSERT INTO procrastinate_events(job_id, type)
        SELECT NEW.id, t.event_type
        FROM t
        WHERE t.event_type IS NOT NULL;
	RETURN NEW;
END;
$$;
CREATE FUNCTION batchgen_queue.procrastinate_unlink_periodic_defers_v1() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    UPDATE procrastinate_periodic_defers
    SET job_id = NULL
    WHERE job_id = OLD.id;
    RETURN OLD;
END;
$$;
CREATE TABLE batchgen.daily (
    quota text NOT NULL COLLATE pg_catalog."C",
    day double precision NOT NULL,
    job text NOT NULL COLLATE pg_catalog."C",
    requests bigint NOT NULL
);
CREATE TABLE batchgen.held (
    quota text NOT NULL COLLATE pg_catalog."C",
    cooled double precision NOT NULL,
    parked double precision NOT NULL,
    why text NOT NULL COLLATE pg_catalog."C",
    rate double precision,
    rises double precision
);
CREATE TABLE batchgen.job (
    id text NOT NULL COLLATE pg_catalog."C",
    schema text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    output text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    made_at double precision NOT NULL,
    made_on text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE batchgen.queue (
    lane text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE batchgen.queue_tables (
    version text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE batchgen.spending (
    at double precision NOT NULL,
    ended double precision,
    usd double precision NOT NULL,
    job text NOT NULL COLLATE pg_catalog."C",
    account text NOT NULL COLLATE pg_catalog."C",
    purse text NOT NULL COLLATE pg_catalog."C",
    place bigint,
    worker text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE batchgen.start (
    place bigint NOT NULL,
    quota text NOT NULL COLLATE pg_catalog."C",
    at double precision NOT NULL
);
CREATE TABLE batchgen.worker (
    name text NOT NULL COLLATE pg_catalog."C",
    host text NOT NULL COLLATE pg_catalog."C",
    pid bigint NOT NULL,
    concurrency bigint NOT NULL,
    started_at double precision NOT NULL,
    at double precision NOT NULL,
    post_processes bigint DEFAULT 0 NOT NULL
);
CREATE TABLE batchgen_job_job_fe45cd8f.attempt (
    id bigint NOT NULL,
    run_id bigint NOT NULL,
    item_id text NOT NULL COLLATE pg_catalog."C",
    n bigint NOT NULL,
    images bigint NOT NULL,
    number bigint NOT NULL,
    lane text NOT NULL COLLATE pg_catalog."C",
    fingerprint text NOT NULL COLLATE pg_catalog."C",
    stem text NOT NULL COLLATE pg_catalog."C",
    started_at double precision NOT NULL,
    sent_at double precision,
    ended_at double precision,
    outcome text COLLATE pg_catalog."C",
    reason text COLLATE pg_catalog."C",
    message text COLLATE pg_catalog."C",
    http_status bigint,
    maybe_billed bigint,
    estimate_usd double precision,
    usd double precision,
    usd_source text COLLATE pg_catalog."C",
    usage text COLLATE pg_catalog."C",
    reply_id text COLLATE pg_catalog."C",
    model_version text COLLATE pg_catalog."C",
    links text COLLATE pg_catalog."C",
    sent_as text COLLATE pg_catalog."C",
    beside text COLLATE pg_catalog."C",
    chunk bigint,
    facts text COLLATE pg_catalog."C",
    worker text COLLATE pg_catalog."C"
);
ALTER TABLE batchgen_job_job_fe45cd8f.attempt ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME batchgen_job_job_fe45cd8f.attempt_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE batchgen_job_job_fe45cd8f.chunk (
    id bigint NOT NULL,
    run_id bigint NOT NULL,
    lane text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    step text NOT NULL COLLATE pg_catalog."C",
    requests bigint NOT NULL,
    estimate_usd double precision,
    upload_url text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    input_file text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    batch text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    results_file text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    state text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    succeeded bigint DEFAULT 0 NOT NULL,
    failed bigint DEFAULT 0 NOT NULL,
    message text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    made_at double precision DEFAULT 0 NOT NULL,
    asked_at double precision DEFAULT 0 NOT NULL,
    created_at double precision DEFAULT 0 NOT NULL,
    ended_at double precision DEFAULT 0 NOT NULL
);
ALTER TABLE batchgen_job_job_fe45cd8f.chunk ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME batchgen_job_job_fe45cd8f.chunk_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE batchgen_job_job_fe45cd8f.derivative (
    path text NOT NULL COLLATE pg_catalog."C",
    item_id text NOT NULL COLLATE pg_catalog."C",
    n bigint NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C",
    state text NOT NULL COLLATE pg_catalog."C",
    recipe text NOT NULL COLLATE pg_catalog."C",
    source_sha256 text NOT NULL COLLATE pg_catalog."C",
    format text NOT NULL COLLATE pg_catalog."C",
    sha256 text NOT NULL COLLATE pg_catalog."C",
    bytes bigint NOT NULL,
    width bigint NOT NULL,
    height bigint NOT NULL,
    mtime_ns bigint NOT NULL,
    message text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE batchgen_job_job_fe45cd8f.due_done (
    run_id bigint NOT NULL,
    made bigint NOT NULL,
    skipped bigint NOT NULL,
    removed bigint NOT NULL
);
CREATE TABLE batchgen_job_job_fe45cd8f.image (
    attempt_id bigint NOT NULL,
    k bigint NOT NULL,
    item_id text NOT NULL COLLATE pg_catalog."C",
    n bigint NOT NULL,
    role text NOT NULL COLLATE pg_catalog."C",
    fingerprint text NOT NULL COLLATE pg_catalog."C",
    spool text NOT NULL COLLATE pg_catalog."C",
    path text NOT NULL COLLATE pg_catalog."C",
    placed bigint NOT NULL,
    sha256 text NOT NULL COLLATE pg_catalog."C",
    bytes bigint NOT NULL,
    width bigint NOT NULL,
    height bigint NOT NULL,
    format text NOT NULL COLLATE pg_catalog."C",
    flags text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    stamp text COLLATE pg_catalog."C"
);
CREATE TABLE batchgen_job_job_fe45cd8f.lane (
    key text NOT NULL COLLATE pg_catalog."C",
    parked_until double precision NOT NULL,
    message text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE batchgen_job_job_fe45cd8f.meta (
    key text NOT NULL COLLATE pg_catalog."C",
    value text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE batchgen_job_job_fe45cd8f.need (
    key text NOT NULL COLLATE pg_catalog."C",
    work_id bigint NOT NULL
);
CREATE TABLE batchgen_job_job_fe45cd8f.run (
    id bigint NOT NULL,
    started_at double precision NOT NULL,
    ended_at double precision,
    pid bigint,
    host text COLLATE pg_catalog."C",
    version text COLLATE pg_catalog."C",
    wanted bigint,
    kept bigint,
    exit_code bigint,
    stopped_by text COLLATE pg_catalog."C",
    summary text COLLATE pg_catalog."C"
);
ALTER TABLE batchgen_job_job_fe45cd8f.run ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME batchgen_job_job_fe45cd8f.run_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE batchgen_job_job_fe45cd8f.sample (
    id bigint NOT NULL,
    item_id text NOT NULL COLLATE pg_catalog."C",
    n bigint NOT NULL,
    model text NOT NULL COLLATE pg_catalog."C",
    tags text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    state text NOT NULL COLLATE pg_catalog."C",
    fingerprint text NOT NULL COLLATE pg_catalog."C",
    wire text NOT NULL COLLATE pg_catalog."C",
    path text COLLATE pg_catalog."C",
    bytes bigint,
    made_fingerprint text COLLATE pg_catalog."C",
    attempts bigint DEFAULT 0 NOT NULL,
    usd double precision,
    usd_source text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    reason text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    message text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    text text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    updated_at double precision NOT NULL
);
ALTER TABLE batchgen_job_job_fe45cd8f.sample ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME batchgen_job_job_fe45cd8f.sample_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE batchgen_job_job_fe45cd8f.stopped_lane (
    run_id bigint NOT NULL,
    lane text NOT NULL COLLATE pg_catalog."C",
    reason text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE batchgen_job_job_fe45cd8f.submission (
    run_id bigint NOT NULL,
    facts text NOT NULL COLLATE pg_catalog."C",
    budget_usd double precision,
    spent_usd double precision DEFAULT 0 NOT NULL,
    deadline double precision,
    stopped_by text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    message text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    made_at double precision NOT NULL
);
CREATE TABLE batchgen_job_job_fe45cd8f.work (
    id bigint NOT NULL,
    run_id bigint NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    lane text NOT NULL COLLATE pg_catalog."C",
    priority bigint NOT NULL,
    missing bigint NOT NULL,
    claim text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    body text NOT NULL COLLATE pg_catalog."C",
    item_id text NOT NULL COLLATE pg_catalog."C",
    n bigint NOT NULL,
    images bigint NOT NULL
);
ALTER TABLE batchgen_job_job_fe45cd8f.work ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME batchgen_job_job_fe45cd8f.work_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE batchgen_queue.procrastinate_events (
    id bigint NOT NULL,
    job_id bigint NOT NULL,
    type batchgen_queue.procrastinate_job_event_type,
    at timestamp with time zone DEFAULT now()
);
CREATE SEQUENCE batchgen_queue.procrastinate_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE batchgen_queue.procrastinate_events_id_seq OWNED BY batchgen_queue.procrastinate_events.id;
CREATE SEQUENCE batchgen_queue.procrastinate_jobs_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE batchgen_queue.procrastinate_jobs_id_seq OWNED BY batchgen_queue.procrastinate_jobs.id;
CREATE TABLE batchgen_queue.procrastinate_periodic_defers (
    id bigint NOT NULL,
    task_name character varying(128) NOT NULL,
    defer_timestamp bigint,
    job_id bigint,
    periodic_id character varying(128) DEFAULT ''::character varying NOT NULL
);
CREATE SEQUENCE batchgen_queue.procrastinate_periodic_defers_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE batchgen_queue.procrastinate_periodic_defers_id_seq OWNED BY batchgen_queue.procrastinate_periodic_defers.id;
CREATE TABLE batchgen_queue.procrastinate_workers (
    id bigint NOT NULL,
    last_heartbeat timestamp with time zone DEFAULT now() NOT NULL
);
ALTER TABLE batchgen_queue.procrastinate_workers ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME batchgen_queue.procrastinate_workers_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
ALTER TABLE ONLY batchgen_queue.procrastinate_events ALTER COLUMN id SET DEFAULT nextval('batchgen_queue.procrastinate_events_id_seq'::regclass);
ALTER TABLE ONLY batchgen_queue.procrastinate_jobs ALTER COLUMN id SET DEFAULT nextval('batchgen_queue.procrastinate_jobs_id_seq'::regclass);
ALTER TABLE ONLY batchgen_queue.procrastinate_periodic_defers ALTER COLUMN id SET DEFAULT nextval('batchgen_queue.procrastinate_periodic_defers_id_seq'::regclass);
INSERT INTO batchgen.daily VALUES ('gemini|127.0.0.1:1|25bf8e1a2393|gemini-nano-banana-2.1', 1795939200, '@FOLDER@/out', 1);
INSERT INTO batchgen.job VALUES ('fe45cd8f-dd7c-47f5-af0c-6fd1a7856303', 'batchgen_job_job_fe45cd8f', 'job', '@OUTPUT@', 6, 1795974390.29707, 'elsewhere');
INSERT INTO batchgen.queue VALUES ('gemini/gemini-nano-banana-2.1');
INSERT INTO batchgen.queue_tables VALUES ('03.04.00_50_post_add_retry_failed_job_procedure');
INSERT INTO batchgen.spending VALUES (1795974395.202224, NULL, 0.044549849999999995, '@FOLDER@/out', '127.0.0.1:1|25bf8e1a2393', 'emulated|@FOLDER@/out', 3978424439262237412, 'w1');
INSERT INTO batchgen.start VALUES (3978424439262237412, 'gemini|127.0.0.1:1|25bf8e1a2393|gemini-nano-banana-2.1', 1795974395.202224);
INSERT INTO batchgen.worker VALUES ('w1', 'elsewhere', 29555, 1, 1795974394.8273, 1795974394.827359, 1);
INSERT INTO batchgen_job_job_fe45cd8f.attempt VALUES (1, 1, 'i0', 1, 1, 1, 'gemini/gemini-nano-banana-2.1', '5af103ab7240725e9a800ffba6f5ff1ea83d953c2ed235268dc1a4ec9c9a69f7', 'i0', 1795974395.2060413, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0.038738999999999996, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'w1');
INSERT INTO batchgen_job_job_fe45cd8f.meta VALUES ('manifest', '@FOLDER@/job.yaml');
INSERT INTO batchgen_job_job_fe45cd8f.meta VALUES ('emulated', 'yes');
INSERT INTO batchgen_job_job_fe45cd8f.meta VALUES ('name', 'job');
INSERT INTO batchgen_job_job_fe45cd8f.meta VALUES ('results_tidy', 'yes');
INSERT INTO batchgen_job_job_fe45cd8f.meta VALUES ('outages w1', '[]');
INSERT INTO batchgen_job_job_fe45cd8f.need VALUES ('i7', 9);
INSERT INTO batchgen_job_job_fe45cd8f.run VALUES (1, 1795974390.4517095, 1795974390.7742136, 29360, 'elsewhere', '0.1.0', 9, 0, 9, '', '{"made": 0, "usd": 0.0, "estimated_usd": 0.0, "message": ""}');
INSERT INTO batchgen_job_job_fe45cd8f.sample VALUES (2, 'i1', 1, 'gemini-nano-banana-2.1', '', 'submitted', '383d9018fd2ad34fa4a0f0cb09ef1223b1d13985ed2897c18068d301890231e8', '{"v":1,"model":"gemini-nano-banana-2.1","provider":"gemini","prompt":"b"}', NULL, NULL, NULL, 0, NULL, '', '', '', '', 1795974390.643525);
INSERT INTO batchgen_job_job_fe45cd8f.sample VALUES (3, 'i2', 1, 'gemini-nano-banana-2.1', '', 'submitted', '45f64427844c82a43fc13eaec2d5018d069d3afb6344460964385d94a4dbd1ed', '{"v":1,"model":"gemini-nano-banana-2.1","provider":"gemini","prompt":"c"}', NULL, NULL, NULL, 0, NULL, '', '', '', '', 1795974390.643525);
INSERT INTO batchgen_job_job_fe45cd8f.sample VALUES (4, 'i3', 1, 'gemini-nano-banana-2.1', '', 'submitted', 'c33a454646296e2c222097812f23f5b831fabef16fe88f910650d47f0c22534d', '{"v":1,"model":"gemini-nano-banana-2.1","provider":"gemini","prompt":"d"}', NULL, NULL, NULL, 0, NULL, '', '', '', '', 1795974390.643525);
INSERT INTO batchgen_job_job_fe45cd8f.sample VALUES (5, 'i4', 1, 'gemini-nano-banana-2.1', '', 'submitted', '842fb4877e65f76f05770dab36535cb02830a49f458247a10a95c0cc9353e328', '{"v":1,"model":"gemini-nano-banana-2.1","provider":"gemini","prompt":"e"}', NULL, NULL, NULL, 0, NULL, '', '', '', '', 1795974390.643525);
INSERT INTO batchgen_job_job_fe45cd8f.sample VALUES (6, 'i5', 1, 'gemini-nano-banana-2.1', '', 'submitted', 'e995385f2c8e5c2395388d4457b00a058588c7f391634957ab1e88edc6306a70', '{"v":1,"model":"gemini-nano-banana-2.1","provider":"gemini","prompt":"f"}', NULL, NULL, NULL, 0, NULL, '', '', '', '', 1795974390.643525);
INSERT INTO batchgen_job_job_fe45cd8f.sample VALUES (7, 'i6', 1, 'gemini-nano-banana-2.1', '', 'submitted', '24e94a86423c4c34980a4e5288c8b1bcd89887bf23e36d47408547398b2481bb', '{"v":1,"model":"gemini-nano-banana-2.1","provider":"gemini","prompt":"g"}', NULL, NULL, NULL, 0, NULL, '', '', '', '', 1795974390.643525);
INSERT INTO batchgen_job_job_fe45cd8f.sample VALUES (8, 'i7', 1, 'gemini-nano-banana-2.1', '', 'submitted', '8d295c51fffc225c1b60e90b965b176c69af17d32e480b0fc753cfeba2659fa2', '{"v":1,"model":"gemini-nano-banana-2.1","provider":"gemini","prompt":"h"}', NULL, NULL, NULL, 0, NULL, '', '', '', '', 1795974390.643525);
INSERT INTO batchgen_job_job_fe45cd8f.sample VALUES (9, 'z', 1, 'gemini-nano-banana-2.1', '', 'submitted', '', '{"v":1,"model":"gemini-nano-banana-2.1","provider":"gemini","prompt":"again"}', NULL, NULL, NULL, 0, NULL, '', '', '', '', 1795974390.643525);
INSERT INTO batchgen_job_job_fe45cd8f.sample VALUES (1, 'i0', 1, 'gemini-nano-banana-2.1', '', 'running', '5af103ab7240725e9a800ffba6f5ff1ea83d953c2ed235268dc1a4ec9c9a69f7', '{"v":1,"model":"gemini-nano-banana-2.1","provider":"gemini","prompt":"a"}', NULL, NULL, NULL, 1, NULL, '', '', '', '', 1795974395.2060413);
INSERT INTO batchgen_job_job_fe45cd8f.submission VALUES (1, '{"name": "job", "folder": "@FOLDER@/out", "bucket": "", "hold_uncertain": false, "emulator_url": "@URL@", "version": "0.1.0", "limits": {}, "models": {"gemini-nano-banana-2.1": {"rpm": 6000}}, "lanes": {"gemini/gemini-nano-banana-2.1": 6000}, "stall_s": 1800.0}', NULL, 0.038738999999999996, NULL, '', '', 1795974390.6415684);
INSERT INTO batchgen_job_job_fe45cd8f.work VALUES (7, 1, 'i6', 'gemini/gemini-nano-banana-2.1', 0, 0, '', '[1, 1, false, "24e94a86423c4c34980a4e5288c8b1bcd89887bf23e36d47408547398b2481bb", "{\"v\":1,\"model\":\"gemini-nano-banana-2.1\",\"provider\":\"gemini\",\"prompt\":\"g\"}", {"id": "i6", "provider": "gemini", "prompt": "g", "turn": 0, "model": "gemini-nano-banana-2.1", "count": 1, "keep_thoughts": false, "priority": 0, "filename": "i6", "on_mismatch": "warn", "origin": "@FOLDER@/job.yaml:11"}]', 'i6', 1, 1);
INSERT INTO batchgen_job_job_fe45cd8f.work VALUES (8, 1, 'i7', 'gemini/gemini-nano-banana-2.1', 0, 0, '', '[1, 1, false, "8d295c51fffc225c1b60e90b965b176c69af17d32e480b0fc753cfeba2659fa2", "{\"v\":1,\"model\":\"gemini-nano-banana-2.1\",\"provider\":\"gemini\",\"prompt\":\"h\"}", {"id": "i7", "provider": "gemini", "prompt": "h", "turn": 0, "model": "gemini-nano-banana-2.1", "count": 1, "keep_thoughts": false, "priority": 0, "filename": "i7", "on_mismatch": "warn", "origin": "@FOLDER@/job.yaml:12"}]', 'i7', 1, 1);
INSERT INTO batchgen_job_job_fe45cd8f.work VALUES (9, 1, 'z', 'gemini/gemini-nano-banana-2.1', 0, 1, '', '[1, 1, false, "", "{\"v\":1,\"model\":\"gemini-nano-banana-2.1\",\"provider\":\"gemini\",\"prompt\":\"again\"}", {"id": "z", "provider": "gemini", "prompt": "again", "turn": 0, "model": "gemini-nano-banana-2.1", "count": 1, "references": ["@i7"], "keep_thoughts": false, "priority": 0, "filename": "z", "on_mismatch": "warn", "origin": "@FOLDER@/job.yaml:13"}]', 'z', 1, 1);
INSERT INTO batchgen_job_job_fe45cd8f.work VALUES (1, 1, 'i0', 'gemini/gemini-nano-banana-2.1', 0, 0, 'w1', '[1, 1, false, "5af103ab7240725e9a800ffba6f5ff1ea83d953c2ed235268dc1a4ec9c9a69f7", "{\"v\":1,\"model\":\"gemini-nano-banana-2.1\",\"provider\":\"gemini\",\"prompt\":\"a\"}", {"id": "i0", "provider": "gemini", "prompt": "a", "turn": 0, "model": "gemini-nano-banana-2.1", "count": 1, "keep_thoughts": false, "priority": 0, "filename": "i0", "on_mismatch": "warn", "origin": "@FOLDER@/job.yaml:5"}]', 'i0', 1, 1);
INSERT INTO batchgen_job_job_fe45cd8f.work VALUES (2, 1, 'i1', 'gemini/gemini-nano-banana-2.1', 0, 0, 'w1', '[1, 1, false, "383d9018fd2ad34fa4a0f0cb09ef1223b1d13985ed2897c18068d301890231e8", "{\"v\":1,\"model\":\"gemini-nano-banana-2.1\",\"provider\":\"gemini\",\"prompt\":\"b\"}", {"id": "i1", "provider": "gemini", "prompt": "b", "turn": 0, "model": "gemini-nano-banana-2.1", "count": 1, "keep_thoughts": false, "priority": 0, "filename": "i1", "on_mismatch": "warn", "origin": "@FOLDER@/job.yaml:6"}]', 'i1', 1, 1);
INSERT INTO batchgen_job_job_fe45cd8f.work VALUES (3, 1, 'i2', 'gemini/gemini-nano-banana-2.1', 0, 0, 'w1', '[1, 1, false, "45f64427844c82a43fc13eaec2d5018d069d3afb6344460964385d94a4dbd1ed", "{\"v\":1,\"model\":\"gemini-nano-banana-2.1\",\"provider\":\"gemini\",\"prompt\":\"c\"}", {"id": "i2", "provider": "gemini", "prompt": "c", "turn": 0, "model": "gemini-nano-banana-2.1", "count": 1, "keep_thoughts": false, "priority": 0, "filename": "i2", "on_mismatch": "warn", "origin": "@FOLDER@/job.yaml:7"}]', 'i2', 1, 1);
INSERT INTO batchgen_job_job_fe45cd8f.work VALUES (4, 1, 'i3', 'gemini/gemini-nano-banana-2.1', 0, 0, 'w1', '[1, 1, false, "c33a454646296e2c222097812f23f5b831fabef16fe88f910650d47f0c22534d", "{\"v\":1,\"model\":\"gemini-nano-banana-2.1\",\"provider\":\"gemini\",\"prompt\":\"d\"}", {"id": "i3", "provider": "gemini", "prompt": "d", "turn": 0, "model": "gemini-nano-banana-2.1", "count": 1, "keep_thoughts": false, "priority": 0, "filename": "i3", "on_mismatch": "warn", "origin": "@FOLDER@/job.yaml:8"}]', 'i3', 1, 1);
INSERT INTO batchgen_job_job_fe45cd8f.work VALUES (5, 1, 'i4', 'gemini/gemini-nano-banana-2.1', 0, 0, 'w1', '[1, 1, false, "842fb4877e65f76f05770dab36535cb02830a49f458247a10a95c0cc9353e328", "{\"v\":1,\"model\":\"gemini-nano-banana-2.1\",\"provider\":\"gemini\",\"prompt\":\"e\"}", {"id": "i4", "provider": "gemini", "prompt": "e", "turn": 0, "model": "gemini-nano-banana-2.1", "count": 1, "keep_thoughts": false, "priority": 0, "filename": "i4", "on_mismatch": "warn", "origin": "@FOLDER@/job.yaml:9"}]', 'i4', 1, 1);
INSERT INTO batchgen_job_job_fe45cd8f.work VALUES (6, 1, 'i5', 'gemini/gemini-nano-banana-2.1', 0, 0, 'w1', '[1, 1, false, "e995385f2c8e5c2395388d4457b00a058588c7f391634957ab1e88edc6306a70", "{\"v\":1,\"model\":\"gemini-nano-banana-2.1\",\"provider\":\"gemini\",\"prompt\":\"f\"}", {"id": "i5", "provider": "gemini", "prompt": "f", "turn": 0, "model": "gemini-nano-banana-2.1", "count": 1, "keep_thoughts": false, "priority": 0, "filename": "i5", "on_mismatch": "warn", "origin": "@FOLDER@/job.yaml:10"}]', 'i5', 1, 1);
INSERT INTO batchgen_queue.procrastinate_events VALUES (1, 1, 'deferred', '2026-11-29 17:46:30.631432+00');
INSERT INTO batchgen_queue.procrastinate_events VALUES (2, 2, 'deferred', '2026-11-29 17:46:30.631432+00');
INSERT INTO batchgen_queue.procrastinate_events VALUES (3, 3, 'deferred', '2026-11-29 17:46:30.631432+00');
INSERT INTO batchgen_queue.procrastinate_events VALUES (4, 4, 'deferred', '2026-11-29 17:46:30.631432+00');
INSERT INTO batchgen_queue.procrastinate_events VALUES (5, 5, 'deferred', '2026-11-29 17:46:30.631432+00');
INSERT INTO batchgen_queue.procrastinate_events VALUES (6, 6, 'deferred', '2026-11-29 17:46:30.631432+00');
INSERT INTO batchgen_queue.procrastinate_events VALUES (7, 7, 'deferred', '2026-11-29 17:46:30.631432+00');
INSERT INTO batchgen_queue.procrastinate_events VALUES (8, 8, 'deferred', '2026-11-29 17:46:30.631432+00');
INSERT INTO batchgen_queue.procrastinate_events VALUES (9, 1, 'started', '2026-11-29 17:46:34.896865+00');
INSERT INTO batchgen_queue.procrastinate_events VALUES (10, 2, 'started', '2026-11-29 17:46:34.925336+00');
INSERT INTO batchgen_queue.procrastinate_events VALUES (11, 3, 'started', '2026-11-29 17:46:34.946086+00');
INSERT INTO batchgen_queue.procrastinate_events VALUES (12, 4, 'started', '2026-11-29 17:46:34.968714+00');
INSERT INTO batchgen_queue.procrastinate_events VALUES (13, 5, 'started', '2026-11-29 17:46:34.979287+00');
INSERT INTO batchgen_queue.procrastinate_events VALUES (14, 6, 'started', '2026-11-29 17:46:34.983089+00');
INSERT INTO batchgen_queue.procrastinate_jobs VALUES (7, 'gemini/gemini-nano-banana-2.1', 'batchgen.sample', 0, NULL, NULL, '{"key": "i6", "run": 1, "schema": "batchgen_job_job_fe45cd8f"}', 'todo', NULL, 0, false, NULL);
INSERT INTO batchgen_queue.procrastinate_jobs VALUES (8, 'gemini/gemini-nano-banana-2.1', 'batchgen.sample', 0, NULL, NULL, '{"key": "i7", "run": 1, "schema": "batchgen_job_job_fe45cd8f"}', 'todo', NULL, 0, false, NULL);
INSERT INTO batchgen_queue.procrastinate_jobs VALUES (1, 'gemini/gemini-nano-banana-2.1', 'batchgen.sample', 0, NULL, NULL, '{"key": "i0", "run": 1, "schema": "batchgen_job_job_fe45cd8f"}', 'doing', NULL, 0, false, 1);
INSERT INTO batchgen_queue.procrastinate_jobs VALUES (2, 'gemini/gemini-nano-banana-2.1', 'batchgen.sample', 0, NULL, NULL, '{"key": "i1", "run": 1, "schema": "batchgen_job_job_fe45cd8f"}', 'doing', NULL, 0, false, 1);
INSERT INTO batchgen_queue.procrastinate_jobs VALUES (3, 'gemini/gemini-nano-banana-2.1', 'batchgen.sample', 0, NULL, NULL, '{"key": "i2", "run": 1, "schema": "batchgen_job_job_fe45cd8f"}', 'doing', NULL, 0, false, 1);
INSERT INTO batchgen_queue.procrastinate_jobs VALUES (4, 'gemini/gemini-nano-banana-2.1', 'batchgen.sample', 0, NULL, NULL, '{"key": "i3", "run": 1, "schema": "batchgen_job_job_fe45cd8f"}', 'doing', NULL, 0, false, 1);
INSERT INTO batchgen_queue.procrastinate_jobs VALUES (5, 'gemini/gemini-nano-banana-2.1', 'batchgen.sample', 0, NULL, NULL, '{"key": "i4", "run": 1, "schema": "batchgen_job_job_fe45cd8f"}', 'doing', NULL, 0, false, 1);
INSERT INTO batchgen_queue.procrastinate_jobs VALUES (6, 'gemini/gemini-nano-banana-2.1', 'batchgen.sample', 0, NULL, NULL, '{"key": "i5", "run": 1, "schema": "batchgen_job_job_fe45cd8f"}', 'doing', NULL, 0, false, 1);
INSERT INTO batchgen_queue.procrastinate_workers OVERRIDING SYSTEM VALUE VALUES (1, '2026-11-29 17:46:34.886463+00');
SELECT pg_catalog.setval('batchgen_job_job_fe45cd8f.attempt_id_seq', 1, true);
SELECT pg_catalog.setval('batchgen_job_job_fe45cd8f.chunk_id_seq', 1, false);
SELECT pg_catalog.setval('batchgen_job_job_fe45cd8f.run_id_seq', 1, true);
SELECT pg_catalog.setval('batchgen_job_job_fe45cd8f.sample_id_seq', 10, true);
SELECT pg_catalog.setval('batchgen_job_job_fe45cd8f.work_id_seq', 9, true);
SELECT pg_catalog.setval('batchgen_queue.procrastinate_events_id_seq', 14, true);
SELECT pg_catalog.setval('batchgen_queue.procrastinate_jobs_id_seq', 8, true);
SELECT pg_catalog.setval('batchgen_queue.procrastinate_periodic_defers_id_seq', 1, false);
SELECT pg_catalog.setval('batchgen_queue.procrastinate_workers_id_seq', 1, true);
ALTER TABLE ONLY batchgen.daily
    ADD CONSTRAINT daily_pkey PRIMARY KEY (quota, day, job);
ALTER TABLE ONLY batchgen.held
    ADD CONSTRAINT held_pkey PRIMARY KEY (quota);
ALTER TABLE ONLY batchgen.job
    ADD CONSTRAINT job_output_key UNIQUE (output);
ALTER TABLE ONLY batchgen.job
    ADD CONSTRAINT job_pkey PRIMARY KEY (id);
ALTER TABLE ONLY batchgen.job
    ADD CONSTRAINT job_schema_key UNIQUE (schema);
ALTER TABLE ONLY batchgen.queue
    ADD CONSTRAINT queue_pkey PRIMARY KEY (lane);
ALTER TABLE ONLY batchgen.start
    ADD CONSTRAINT start_pkey PRIMARY KEY (place);
ALTER TABLE ONLY batchgen.worker
    ADD CONSTRAINT worker_pkey PRIMARY KEY (name);
ALTER TABLE ONLY batchgen_job_job_fe45cd8f.attempt
    ADD CONSTRAINT attempt_pkey PRIMARY KEY (id);
ALTER TABLE ONLY batchgen_job_job_fe45cd8f.chunk
    ADD CONSTRAINT chunk_pkey PRIMARY KEY (id);
ALTER TABLE ONLY batchgen_job_job_fe45cd8f.derivative
    ADD CONSTRAINT derivative_pkey PRIMARY KEY (path);
ALTER TABLE ONLY batchgen_job_job_fe45cd8f.due_done
    ADD CONSTRAINT due_done_pkey PRIMARY KEY (run_id);
ALTER TABLE ONLY batchgen_job_job_fe45cd8f.image
    ADD CONSTRAINT image_pkey PRIMARY KEY (attempt_id, k);
ALTER TABLE ONLY batchgen_job_job_fe45cd8f.lane
    ADD CONSTRAINT lane_pkey PRIMARY KEY (key);
ALTER TABLE ONLY batchgen_job_job_fe45cd8f.meta
    ADD CONSTRAINT meta_pkey PRIMARY KEY (key);
ALTER TABLE ONLY batchgen_job_job_fe45cd8f.need
    ADD CONSTRAINT need_pkey PRIMARY KEY (key, work_id);
ALTER TABLE ONLY batchgen_job_job_fe45cd8f.run
    ADD CONSTRAINT run_pkey PRIMARY KEY (id);
ALTER TABLE ONLY batchgen_job_job_fe45cd8f.sample
    ADD CONSTRAINT sample_pkey PRIMARY KEY (id);
ALTER TABLE ONLY batchgen_job_job_fe45cd8f.stopped_lane
    ADD CONSTRAINT stopped_lane_pkey PRIMARY KEY (run_id, lane);
ALTER TABLE ONLY batchgen_job_job_fe45cd8f.submission
    ADD CONSTRAINT submission_pkey PRIMARY KEY (run_id);
ALTER TABLE ONLY batchgen_job_job_fe45cd8f.work
    ADD CONSTRAINT work_key_key UNIQUE (key);
ALTER TABLE ONLY batchgen_job_job_fe45cd8f.work
    ADD CONSTRAINT work_pkey PRIMARY KEY (id);
ALTER TABLE ONLY batchgen_queue.procrastinate_events
    ADD CONSTRAINT procrastinate_events_pkey PRIMARY KEY (id);
ALTER TABLE ONLY batchgen_queue.procrastinate_jobs
    ADD CONSTRAINT procrastinate_jobs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY batchgen_queue.procrastinate_periodic_defers
    ADD CONSTRAINT procrastinate_periodic_defers_pkey PRIMARY KEY (id);
ALTER TABLE ONLY batchgen_queue.procrastinate_periodic_defers
    ADD CONSTRAINT procrastinate_periodic_defers_unique UNIQUE (task_name, periodic_id, defer_timestamp);
ALTER TABLE ONLY batchgen_queue.procrastinate_workers
    ADD CONSTRAINT procrastinate_workers_pkey PRIMARY KEY (id);
CREATE UNIQUE INDEX spending_place ON batchgen.spending USING btree (place) WHERE (place IS NOT NULL);
CREATE INDEX spending_sum ON batchgen.spending USING btree (purse, at, account, usd, ended);
CREATE INDEX start_by_time ON batchgen.start USING btree (quota, at);
CREATE INDEX attempt_doubtful ON batchgen_job_job_fe45cd8f.attempt USING btree (item_id, n) WHERE (maybe_billed <> 0);
CREATE INDEX attempt_of_chunk ON batchgen_job_job_fe45cd8f.attempt USING btree (chunk) WHERE (chunk IS NOT NULL);
CREATE INDEX attempt_of_run ON batchgen_job_job_fe45cd8f.attempt USING btree (run_id);
CREATE INDEX attempt_open ON batchgen_job_job_fe45cd8f.attempt USING btree (id) WHERE (outcome IS NULL);
CREATE INDEX attempt_recent ON batchgen_job_job_fe45cd8f.attempt USING btree (lane, started_at);
CREATE INDEX derivative_of_sample ON batchgen_job_job_fe45cd8f.derivative USING btree (item_id, n);
CREATE INDEX image_of_sample ON batchgen_job_job_fe45cd8f.image USING btree (item_id, n);
CREATE INDEX image_unplaced ON batchgen_job_job_fe45cd8f.image USING btree (attempt_id) WHERE (placed = 0);
CREATE INDEX need_of ON batchgen_job_job_fe45cd8f.need USING btree (work_id);
CREATE UNIQUE INDEX sample_key ON batchgen_job_job_fe45cd8f.sample USING btree (item_id, n);
CREATE INDEX sample_not_done ON batchgen_job_job_fe45cd8f.sample USING btree (state) WHERE (state <> 'succeeded'::text);
CREATE INDEX work_of ON batchgen_job_job_fe45cd8f.work USING btree (item_id);
CREATE INDEX idx_procrastinate_jobs_worker_not_null ON batchgen_queue.procrastinate_jobs USING btree (worker_id) WHERE ((worker_id IS NOT NULL) AND (status = 'doing'::batchgen_queue.procrastinate_job_status));
CREATE INDEX idx_procrastinate_workers_last_heartbeat ON batchgen_queue.procrastinate_workers USING btree (last_heartbeat);
CREATE INDEX procrastinate_events_job_id_fkey_v1 ON batchgen_queue.procrastinate_events USING btree (job_id);
CREATE INDEX procrastinate_jobs_id_lock_idx_v1 ON batchgen_queue.procrastinate_jobs USING btree (id, lock) WHERE (status = ANY (ARRAY['todo'::batchgen_queue.procrastinate_job_status, 'doing'::batchgen_queue.procrastinate_job_status]));
CREATE UNIQUE INDEX procrastinate_jobs_lock_idx_v1 ON batchgen_queue.procrastinate_jobs USING btree (lock) WHERE (status = 'doing'::batchgen_queue.procrastinate_job_status);
CREATE INDEX procrastinate_jobs_priority_idx_v1 ON batchgen_queue.procrastinate_jobs USING btree (priority DESC, id) WHERE (status = 'todo'::batchgen_queue.procrastinate_job_status);
CREATE INDEX procrastinate_jobs_queue_name_idx_v1 ON batchgen_queue.procrastinate_jobs USING btree (queue_name);
CREATE UNIQUE INDEX procrastinate_jobs_queueing_lock_idx_v1 ON batchgen_queue.procrastinate_jobs USING btree (queueing_lock) WHERE (status = 'todo'::batchgen_queue.procrastinate_job_status);
CREATE INDEX procrastinate_periodic_defers_job_id_fkey_v1 ON batchgen_queue.procrastinate_periodic_defers USING btree (job_id);
CREATE TRIGGER procrastinate_jobs_notify_queue_job_aborted_v1 AFTER UPDATE OF abort_requested ON batchgen_queue.procrastinate_jobs FOR EACH ROW WHEN (((old.abort_requested = false) AND (new.abort_requested = true) AND (new.status = 'doing'::batchgen_queue.procrastinate_job_status))) EXECUTE FUNCTION batchgen_queue.procrastinate_notify_queue_abort_job_v1();
CREATE TRIGGER procrastinate_jobs_notify_queue_job_inserted_v1 AFTER INSERT ON batchgen_queue.procrastinate_jobs FOR EACH ROW WHEN ((new.status = 'todo'::batchgen_queue.procrastinate_job_status)) EXECUTE FUNCTION batchgen_queue.procrastinate_notify_queue_job_inserted_v1();
CREATE TRIGGER procrastinate_trigger_abort_requested_events_v1 AFTER UPDATE OF abort_requested ON batchgen_queue.procrastinate_jobs FOR EACH ROW WHEN ((new.abort_requested = true)) EXECUTE FUNCTION batchgen_queue.procrastinate_trigger_abort_requested_events_procedure_v1();
CREATE TRIGGER procrastinate_trigger_delete_jobs_v1 BEFORE DELETE ON batchgen_queue.procrastinate_jobs FOR EACH ROW EXECUTE FUNCTION batchgen_queue.procrastinate_unlink_periodic_defers_v1();
CREATE TRIGGER procrastinate_trigger_scheduled_events_v1 AFTER INSERT OR UPDATE ON batchgen_queue.procrastinate_jobs FOR EACH ROW WHEN (((new.scheduled_at IS NOT NULL) AND (new.status = 'todo'::batchgen_queue.procrastinate_job_status))) EXECUTE FUNCTION batchgen_queue.procrastinate_trigger_function_scheduled_events_v1();
CREATE TRIGGER procrastinate_trigger_status_events_insert_v1 AFTER INSERT ON batchgen_queue.procrastinate_jobs FOR EACH ROW WHEN ((new.status = 'todo'::batchgen_queue.procrastinate_job_status)) EXECUTE FUNCTION batchgen_queue.procrastinate_trigger_function_status_events_insert_v1();
CREATE TRIGGER procrastinate_trigger_status_events_update_v1 AFTER UPDATE OF status ON batchgen_queue.procrastinate_jobs FOR EACH ROW EXECUTE FUNCTION batchgen_queue.procrastinate_trigger_function_status_events_update_v1();
ALTER TABLE ONLY batchgen_queue.procrastinate_events
    ADD CONSTRAINT procrastinate_events_job_id_fkey FOREIGN KEY (job_id) REFERENCES batchgen_queue.procrastinate_jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY batchgen_queue.procrastinate_jobs
    ADD CONSTRAINT procrastinate_jobs_worker_id_fkey FOREIGN KEY (worker_id) REFERENCES batchgen_queue.procrastinate_workers(id) ON DELETE SET NULL;
ALTER TABLE ONLY batchgen_queue.procrastinate_periodic_defers
    ADD CONSTRAINT procrastinate_periodic_defers_job_id_fkey FOREIGN KEY (job_id) REFERENCES batchgen_queue.procrastinate_jobs(id);
