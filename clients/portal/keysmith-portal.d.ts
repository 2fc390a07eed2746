type Sent = Record<string, string> | Headers;

export class KeysmithPortal extends HTMLElement {
    /** Headers of each request: those, or a function that returns or promises them. */
    headers: Sent | ((request: { method: string, url: string }) => Sent | Promise<Sent>) | null;
    /** Texts in place of the usual ones, and names for words of the server, such as those of environments. */
    texts: { names?: Record<string, string> } & { [name: string]: string | Record<string, string> | undefined };
    /** Reads keys and usage again. */
    reload(): Promise<void>;
}

/** A key as the endpoints show it. The key itself, `api_key`, is in no event. */
export interface Key {
    key_id: string;
    label: string | null;
    status: string;
    [value: string]: unknown;
}

declare global {
    interface HTMLElementTagNameMap {
        "keysmith-portal": KeysmithPortal;
    }
    interface GlobalEventHandlersEventMap {
        "keysmith-created": CustomEvent<Key>;
        "keysmith-changed": CustomEvent<Key>;
        "keysmith-rotated": CustomEvent<Key & { rotated_from: string }>;
        "keysmith-disabled": CustomEvent<Key>;
        "keysmith-enabled": CustomEvent<Key>;
        "keysmith-revoked": CustomEvent<Key>;
        "keysmith-signed-out": CustomEvent<null>;
    }
}
