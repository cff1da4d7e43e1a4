-- Which fields of a request, beyond those of the first version, its worker must know (`protocol::fields`, one bit each).
ALTER TABLE requests ADD COLUMN fields INTEGER NOT NULL DEFAULT 0 CHECK (fields >= 0);
CREATE INDEX requests_fields ON requests (job, fields) WHERE fields <> 0;
-- `wire::AnswerLogprobs`: what the worker told of its tokens, where the request asked for it.
ALTER TABLE answers ADD COLUMN logprobs BLOB NOT NULL DEFAULT x'';
