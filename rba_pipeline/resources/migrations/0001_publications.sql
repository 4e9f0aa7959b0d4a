CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE documents (
    corpus       text NOT NULL,
    document_id  text NOT NULL,
    path         text NOT NULL,
    series       text NOT NULL,
    title        text NOT NULL,
    url          text,
    published_on date NOT NULL,
    content_hash text NOT NULL,
    PRIMARY KEY (corpus, document_id)
);

-- Partitions are published, replaced and counted by their window of filing dates.
CREATE INDEX documents_by_date ON documents (corpus, published_on);

CREATE TABLE spaces (
    space      text PRIMARY KEY,
    model      text NOT NULL,
    dimensions integer NOT NULL CHECK (dimensions BETWEEN 1 AND 16000),
    details    jsonb NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT now()
);

-- The one space that search reads for a corpus.
CREATE TABLE active_spaces (
    corpus      text PRIMARY KEY,
    space       text NOT NULL REFERENCES spaces,
    switched_at timestamptz NOT NULL DEFAULT now()
);

-- With which content a document is published in a space: each of its chunks has a vector there or is
-- quarantined. A corpus may switch to a space in which all its documents stand as they are now.
CREATE TABLE published_documents (
    corpus       text NOT NULL,
    space        text NOT NULL REFERENCES spaces,
    document_id  text NOT NULL,
    content_hash text NOT NULL,
    PRIMARY KEY (corpus, space, document_id),
    FOREIGN KEY (corpus, document_id) REFERENCES documents ON DELETE CASCADE
);

-- One partition per space, each with its own check on the dimension: spaces cannot mix.
CREATE TABLE vectors (
    corpus      text NOT NULL,
    space       text NOT NULL REFERENCES spaces,
    chunk_id    text NOT NULL,
    document_id text NOT NULL,
    chunking_id text NOT NULL,
    ordinal     integer NOT NULL CHECK (ordinal >= 0),
    section     text NOT NULL,
    page        integer CHECK (page >= 1),
    start       integer NOT NULL CHECK (start >= 0),
    text        text NOT NULL CHECK (text <> ''),
    text_hash   text NOT NULL,
    tokens      integer NOT NULL CHECK (tokens >= 1),
    embedding   vector NOT NULL,
    PRIMARY KEY (corpus, space, chunk_id),
    FOREIGN KEY (corpus, document_id) REFERENCES documents ON DELETE CASCADE
) PARTITION BY LIST (space);

CREATE INDEX vectors_by_document ON vectors (corpus, document_id);

-- Rebuilt from the catalogue (kind document) and the outcomes beside the parts (kind text).
CREATE TABLE quarantine (
    corpus       text NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('document', 'text')),
    name         text NOT NULL,
    window_start date NOT NULL,
    window_end   date NOT NULL,
    reason       text NOT NULL,
    detail       text NOT NULL,
    attempts     integer NOT NULL CHECK (attempts >= 1),
    seen_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (corpus, kind, name, window_start)
);
