-- A rebuild in progress (NAME+rebuild) is no projection to those who monitor them: it is not late, it is new.
DROP VIEW projection_checkpoints;
CREATE VIEW projection_checkpoints AS
    SELECT projection AS projection_name, min(position) AS last_global_position, max(updated_at) AS updated_at
    FROM _projectionist_checkpoints WHERE instr(projection, '+') = 0 GROUP BY projection;
