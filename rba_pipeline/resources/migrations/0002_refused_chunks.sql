-- A chunk that the vectors' table does not take, for a constraint or a trigger of the installation.
ALTER TABLE quarantine
    DROP CONSTRAINT quarantine_kind_check,
    ADD CONSTRAINT quarantine_kind_check CHECK (kind IN ('document', 'text', 'chunk')),
    ADD CONSTRAINT quarantine_window_check CHECK (window_start < window_end);
