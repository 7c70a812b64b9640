-- The tables of ledger version 1, as they were written until version 2 came.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE run (
  id INTEGER PRIMARY KEY, started_at REAL NOT NULL, ended_at REAL, pid INTEGER, host TEXT, version TEXT,
  wanted INTEGER, kept INTEGER, exit_code INTEGER, stopped_by TEXT, summary TEXT);
CREATE TABLE sample (
  id INTEGER PRIMARY KEY, item_id TEXT NOT NULL, n INTEGER NOT NULL,
  model TEXT NOT NULL, tags TEXT NOT NULL DEFAULT '', state TEXT NOT NULL,
  fingerprint TEXT NOT NULL, wire TEXT NOT NULL,
  path TEXT, bytes INTEGER, made_fingerprint TEXT,
  attempts INTEGER NOT NULL DEFAULT 0, usd REAL, usd_source TEXT NOT NULL DEFAULT '',
  reason TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '', text TEXT NOT NULL DEFAULT '',
  updated_at REAL NOT NULL);
CREATE UNIQUE INDEX sample_key ON sample (item_id, n);
CREATE INDEX sample_not_done ON sample (state) WHERE state <> 'succeeded';
CREATE TABLE attempt (
  id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL, item_id TEXT NOT NULL, n INTEGER NOT NULL,
  images INTEGER NOT NULL, number INTEGER NOT NULL, lane TEXT NOT NULL, fingerprint TEXT NOT NULL, stem TEXT NOT NULL,
  started_at REAL NOT NULL, sent_at REAL, ended_at REAL,
  outcome TEXT, reason TEXT, message TEXT, http_status INTEGER, maybe_billed INTEGER,
  estimate_usd REAL, usd REAL, usd_source TEXT, usage TEXT, reply_id TEXT, model_version TEXT, links TEXT);
CREATE INDEX attempt_open ON attempt (id) WHERE outcome IS NULL;
CREATE INDEX attempt_recent ON attempt (lane, started_at);
CREATE INDEX attempt_of_run ON attempt (run_id);
CREATE INDEX attempt_doubtful ON attempt (item_id, n) WHERE maybe_billed;
CREATE TABLE image (
  attempt_id INTEGER NOT NULL, k INTEGER NOT NULL, item_id TEXT NOT NULL, n INTEGER NOT NULL, role TEXT NOT NULL,
  fingerprint TEXT NOT NULL, spool TEXT NOT NULL, path TEXT NOT NULL, placed INTEGER NOT NULL,
  sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
  format TEXT NOT NULL, flags TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (attempt_id, k)) WITHOUT ROWID;
CREATE INDEX image_of_sample ON image (item_id, n);
CREATE INDEX image_unplaced ON image (attempt_id) WHERE placed = 0;
CREATE TABLE lane (key TEXT PRIMARY KEY, parked_until REAL NOT NULL, message TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 1;
